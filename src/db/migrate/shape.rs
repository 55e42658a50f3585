//! Two schemas, and the steps that lead from the one to the other with every column that both have.

use crate::db::migrate::definitions::Definition;
use crate::db::migrate::origins::{OfColumn, OfTable, Origins};
use crate::db::migrate::statement::{same, same_but_name};
use crate::db::{error::Error, migrate::definitions};
use crate::model::change::{Column, Step, Thing};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// What a table is called while two exchange their names.
pub const MEANWHILE: &str = "__harmonylite__meanwhile";

/// A schema.
#[derive(Debug)]
pub struct Shape {
    pub things: Vec<Definition>,
    pub origins: Origins,
}

/// How one schema becomes another one.
#[derive(Debug, Default)]
pub struct Path {
    pub steps: Vec<Step>,
    /// Tables in which a column has the values of another one of its name: other nodes cannot know them.
    pub told_anew: Vec<String>,
}

/// A table in both.
struct Pair<'a> {
    from: &'a Definition,
    to: &'a Definition,
    of_from: &'a OfTable,
    of_to: &'a OfTable,
}

impl Shape {
    /// That of a database, whose tables and columns are those of another shape that have the same names.
    pub fn named(connection: &Connection, others: &Origins) -> Result<Shape, Error> {
        let origins = Origins::named(connection, &definitions::tables(connection)?, others)?;
        Ok(Shape { things: definitions::of_application(connection)?, origins })
    }

    /// Whether all is there as in the other one, whatever the layout, but for what is left out.
    pub fn is(&self, others: &[Definition], is_left_out: impl Fn(&str) -> bool) -> bool {
        let ours = Things::of(&self.things);
        let mut others = others.iter().filter(|other| !is_left_out(&other.name));
        let count = self.things.iter().filter(|thing| !is_left_out(&thing.name)).count();
        count == others.clone().count() && !others.any(|other| ours.lack(other))
    }

    fn tables(&self) -> impl Iterator<Item = (&Definition, &OfTable)> {
        let tables = self.things.iter().filter(|thing| thing.kind == Thing::Table);
        tables.filter_map(|table| Some((table, self.origins.find(&table.name)?)))
    }
}

/// What a schema has, by kind and name in lower case.
struct Things<'a>(HashMap<(Thing, String), &'a Definition>);

impl<'a> Things<'a> {
    fn of(list: &'a [Definition]) -> Things<'a> {
        Things(list.iter().map(|thing| ((thing.kind, thing.name.to_lowercase()), thing)).collect())
    }

    fn find(&self, kind: Thing, name: &str) -> Option<&'a Definition> {
        self.0.get(&(kind, name.to_lowercase())).copied()
    }

    /// Whether it is not there, or otherwise.
    fn lack(&self, thing: &Definition) -> bool {
        self.find(thing.kind, &thing.name).is_none_or(|other| !same(&other.sql, &thing.sql))
    }
}

/// The steps from one schema to another one, in the order in which they can be carried out.
pub fn lead(from: &Shape, to: &Shape) -> Path {
    let mut path = Path::default();
    let (before, after) = (Things::of(&from.things), Things::of(&to.things));
    let pairs = pairs(from, to, &before);
    let create = |thing: &Definition| Step::Create {
        kind: thing.kind,
        name: thing.name.clone(),
        sql: thing.sql.clone(),
    };
    for kind in [Thing::Trigger, Thing::View, Thing::Index] {
        let gone = from.things.iter().filter(|thing| thing.kind == kind && after.lack(thing));
        path.steps.extend(gone.map(|gone| Step::Drop { kind, name: gone.name.clone() }));
    }
    let stay: HashSet<&str> = pairs.iter().map(|pair| pair.from.name.as_str()).collect();
    let gone = from.tables().filter(|(table, _)| !stay.contains(table.name.as_str()));
    path.steps.extend(gone.map(|(table, _)| Step::DropTable { table: table.name.clone() }));
    path.steps.extend(renames(pairs.iter().map(|pair| (&*pair.from.name, &*pair.to.name)).collect()));
    for pair in &pairs {
        path.alter(pair);
    }
    let known: HashSet<&str> = pairs.iter().map(|pair| pair.to.name.as_str()).collect();
    let new = to.tables().filter(|(table, _)| !known.contains(table.name.as_str()));
    path.steps.extend(new.map(|(table, _)| create(table)));
    for kind in [Thing::Index, Thing::View, Thing::Trigger] {
        let new = to.things.iter().filter(|thing| thing.kind == kind && before.lack(thing));
        path.steps.extend(new.map(create));
    }
    path
}

/// The tables of both. One that has nothing before it takes the rows of one of its name that has nothing after it.
fn pairs<'a>(from: &'a Shape, to: &'a Shape, before: &Things<'a>) -> Vec<Pair<'a>> {
    let (from_by_id, to_by_id) = (from.origins.by_id(), to.origins.by_id());
    let found = to.tables().filter_map(|(table, of_table)| {
        let same = from_by_id.get(of_table.id.as_str()).copied();
        let by_name =
            || from.origins.find(&table.name).filter(|other| !to_by_id.contains_key(other.id.as_str()));
        let of_from = same.or_else(by_name)?;
        let before = before.find(Thing::Table, &of_from.name)?;
        Some(Pair { from: before, to: table, of_from, of_to: of_table })
    });
    found.collect()
}

/// Renames of tables in an order in which no name is taken.
pub fn renames(mut left: Vec<(&str, &str)>) -> Vec<Step> {
    left.retain(|(from, to)| !from.eq_ignore_ascii_case(to));
    let mut steps = vec![];
    let mut rename = |from: &str, to: &str| {
        steps.push(Step::RenameTable { from: from.to_owned(), to: to.to_owned() });
    };
    while !left.is_empty() {
        let is_free = |to: &str| !left.iter().any(|(from, _)| from.eq_ignore_ascii_case(to));
        if let Some(at) = left.iter().position(|(_, to)| is_free(to)) {
            let (from, to) = left.remove(at);
            rename(from, to);
        } else {
            rename(left[0].0, MEANWHILE);
            left[0].0 = MEANWHILE;
        }
    }
    steps
}

impl Path {
    fn alter(&mut self, pair: &Pair<'_>) {
        let by_id = |column: &OfColumn| pair.of_from.columns.iter().find(|old| old.id == column.id);
        let is_taken = |old: &OfColumn| pair.of_to.columns.iter().any(|column| column.id == old.id);
        let (mut columns, mut used, mut is_other) = (vec![], vec![], pair.of_from.id != pair.of_to.id);
        for column in &pair.of_to.columns {
            let same = by_id(column);
            let by_name = || {
                let named =
                    pair.of_from.columns.iter().find(|old| old.name.eq_ignore_ascii_case(&column.name));
                named.filter(|old| !is_taken(old))
            };
            let old = same.or_else(by_name);
            let is_same = same.is_some()
                || old.is_some_and(|old| {
                    old.fill == column.fill && old.declared_type.eq_ignore_ascii_case(&column.declared_type)
                });
            is_other |= !is_same && old.is_some();
            used.extend(old.map(|old| old.name.as_str()));
            let from = old.map(|old| old.name.clone());
            let is_new = |of: fn(&OfColumn) -> Option<&str>| same.is_none_or(|old| of(old) != of(column));
            let fill = column.fill.clone().filter(|_| is_new(|column| column.fill.as_deref()));
            let nothing = column.nothing.filter(|_| is_new(|column| column.nothing));
            let fill = fill.or_else(|| nothing.map(str::to_owned));
            columns.push(Column { name: column.name.clone(), from, fill });
        }
        let is_gone = |old: &&OfColumn| !used.contains(&old.name.as_str());
        let dropped: Vec<String> =
            pair.of_from.columns.iter().filter(is_gone).map(|old| old.name.clone()).collect();
        let moves = columns.iter().any(|column| column.from.as_ref() != Some(&column.name));
        if same_but_name(&pair.from.sql, &pair.to.sql) && !moves && dropped.is_empty() {
            return;
        }
        if is_other {
            self.told_anew.push(pair.to.name.clone());
        }
        self.steps.push(Step::AlterTable {
            table: pair.to.name.clone(),
            was: pair.from.sql.clone(),
            sql: pair.to.sql.clone(),
            columns,
            dropped,
        });
    }
}
