//! Two schemas, and the steps that lead from the one to the other with every column that both have.

use crate::db::migrate::definitions::Definition;
use crate::db::migrate::origins::{OfColumn, OfTable, Origins};
use crate::db::migrate::statement::{same, same_but_name};
use crate::db::{error::Error, migrate::definitions};
use crate::model::change::{Column, Step, Thing};
use rusqlite::Connection;

/// What a table is called while two exchange their names.
const MEANWHILE: &str = "__harmonylite__meanwhile";

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
        let mut others = others.iter().filter(|other| !is_left_out(&other.name));
        let count = others.clone().count();
        let ours = self.things.iter().filter(|thing| !is_left_out(&thing.name)).count();
        count == ours
            && others.all(|other| find(&self.things, other).is_some_and(|ours| same(&ours.sql, &other.sql)))
    }

    fn tables(&self) -> impl Iterator<Item = (&Definition, &OfTable)> {
        let tables = self.things.iter().filter(|thing| thing.kind == Thing::Table);
        tables.filter_map(|table| Some((table, self.origins.find(&table.name)?)))
    }

    fn find_table(&self, name: &str) -> Option<(&Definition, &OfTable)> {
        self.tables().find(|(table, _)| table.name.eq_ignore_ascii_case(name))
    }
}

fn find<'a>(list: &'a [Definition], wanted: &Definition) -> Option<&'a Definition> {
    list.iter().find(|thing| thing.kind == wanted.kind && thing.name.eq_ignore_ascii_case(&wanted.name))
}

/// The steps from one schema to another one, in the order in which they can be carried out.
pub fn lead(from: &Shape, to: &Shape) -> Path {
    let mut path = Path::default();
    let pairs = pairs(from, to);
    let create = |thing: &Definition| Step::Create {
        kind: thing.kind,
        name: thing.name.clone(),
        sql: thing.sql.clone(),
    };
    let differs = |list: &[Definition], thing: &Definition| {
        find(list, thing).is_none_or(|other| !same(&other.sql, &thing.sql))
    };
    for kind in [Thing::Trigger, Thing::View, Thing::Index] {
        let gone = from.things.iter().filter(|thing| thing.kind == kind && differs(&to.things, thing));
        path.steps.extend(gone.map(|gone| Step::Drop { kind, name: gone.name.clone() }));
    }
    for (table, _) in from.tables() {
        if !pairs.iter().any(|pair| pair.from.name == table.name) {
            path.steps.push(Step::DropTable { table: table.name.clone() });
        }
    }
    path.steps.extend(renames(pairs.iter().map(|pair| (&*pair.from.name, &*pair.to.name)).collect()));
    for pair in &pairs {
        path.alter(pair);
    }
    for (table, _) in to.tables() {
        if !pairs.iter().any(|pair| pair.to.name == table.name) {
            path.steps.push(create(table));
        }
    }
    for kind in [Thing::Index, Thing::View, Thing::Trigger] {
        let new = to.things.iter().filter(|thing| thing.kind == kind && differs(&from.things, thing));
        path.steps.extend(new.map(create));
    }
    path
}

/// The tables of both. One that has nothing before it takes the rows of one of its name that has nothing after it.
fn pairs<'a>(from: &'a Shape, to: &'a Shape) -> Vec<Pair<'a>> {
    let found = to.tables().filter_map(|(table, of_table)| {
        let same = from.origins.find_id(&of_table.id);
        let by_name =
            || from.origins.find(&table.name).filter(|other| to.origins.find_id(&other.id).is_none());
        let of_from = same.or_else(by_name)?;
        let (before, _) = from.find_table(&of_from.name)?;
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
