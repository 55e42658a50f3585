//! The schema as the order of changes says. What all nodes have seen is the same everywhere; what this node's application has changed
//! meanwhile stays on top of it, as it would have been had it been made after.

use crate::db::error::Error;
use crate::db::migrate::carry::{Carried, Fit, Terms, carry_out};
use crate::db::migrate::history::{self, Past, State};
use crate::db::migrate::order::Order;
use crate::db::migrate::scratch::{Replayed, Scratch};
use crate::db::migrate::shape::{Path, Shape, lead};
use crate::db::migrate::unsettled::{self, Before};
use crate::db::migrate::{definitions, script};
use crate::model::change::Change;
use rusqlite::Connection;
use std::collections::BTreeSet;

/// What a change came to at its place in the order.
#[derive(Debug, Default)]
pub struct Settled {
    pub carried: Carried,
    /// The change as it comes to pass there, if that is not as it says.
    pub change: Option<Change>,
    /// Tables whose rows other nodes cannot know.
    pub told_anew: Vec<String>,
}

/// The changes whose place is open, and those that come after such a one, in their order.
struct Window {
    before: Vec<Past>,
    /// Those of the application of this node.
    waiting: Vec<Change>,
    order: Order,
    known: Option<State>,
}

impl Window {
    fn read(connection: &Connection, change: &Change) -> Result<Window, Error> {
        let all = history::all(connection)?;
        let order = Order::of(&all);
        let known = all.iter().find(|past| past.change.id == change.id).map(|past| past.state);
        let (waiting, others): (Vec<Past>, Vec<Past>) =
            all.into_iter().partition(|past| past.state == State::Waiting);
        let open = others.iter().position(|past| past.state == State::Failed).unwrap_or(others.len());
        let mut before: Vec<Past> = others.into_iter().skip(open).collect();
        before.retain(|past| past.state != State::Own);
        let waiting = waiting.into_iter().map(|past| past.change).collect();
        Ok(Window { before, waiting, order, known })
    }

    /// Whether nothing but the change is open, and its maker had seen all that is here.
    fn is_simple(&self, change: &Change) -> bool {
        self.is_alone(change) && self.order.is_next(change)
    }

    /// Whether nothing but the change is open.
    fn is_alone(&self, change: &Change) -> bool {
        self.waiting.is_empty() && self.before.iter().all(|past| past.change.id == change.id)
    }

    /// Whether it is this node's own, and all comes to pass as it was made.
    fn is_own_next(&self, change: &Change) -> bool {
        self.before.is_empty()
            && self.waiting.first().is_some_and(|first| first.id == change.id)
            && self.order.is_next(change)
    }
}

/// What is to be done.
#[derive(Default)]
struct Plan {
    path: Path,
    replayed: Replayed,
    /// The change as it comes to pass at its place in the order.
    settled: Option<Change>,
    /// The same of others whose place is open, or was.
    others: Vec<Change>,
    open: Vec<Before>,
    target: Option<Shape>,
    left_out: BTreeSet<String>,
}

/// Brings the database to the schema that a change leads to, which comes next in the order or had to wait; inside of a transaction.
/// If it fails, the caller takes back what was done.
pub fn settle(connection: &Connection, change: &Change, keeps: bool) -> Result<Settled, Error> {
    let window = Window::read(connection, change)?;
    if window.is_own_next(change) {
        unsettled::forget(connection, &change.id)?;
        return Ok(Settled::default());
    }
    let mut failed = None;
    if window.is_simple(change) {
        connection.execute_batch("SAVEPOINT direct")?;
        match carry_out(connection, change, &Terms { keeps, fit: Fit::Strict }) {
            Ok(carried) if !carried.misfit => {
                connection.execute_batch("RELEASE direct")?;
                return Ok(Settled { carried, ..Settled::default() });
            }
            Ok(_) => {}
            Err(error @ (Error::Mismatch(_) | Error::Other(_))) if change.script.is_none() => {
                failed = Some(error)
            }
            Err(error) => return Err(error),
        }
        connection.execute_batch("ROLLBACK TO direct; RELEASE direct")?;
        connection.flush_prepared_statement_cache();
    }
    let plan = match plan(connection, change, &window) {
        Ok(plan) => plan,
        Err(Error::Mismatch(why) | Error::Other(why)) => {
            log::debug!("the schema cannot be had in memory: {why}");
            let carried = carry_out(connection, change, &Terms { keeps, fit: Fit::Merge })?;
            return Ok(Settled { carried, ..Settled::default() });
        }
        Err(error) => return Err(error),
    };
    // The rows are in the way: nothing of the schema is.
    if let Some(error) = failed.filter(|_| plan.replayed.lost.is_empty()) {
        return Err(error);
    }
    follow(connection, change, plan, keeps)
}

/// The change as this database would carry it out.
pub fn planned(connection: &Connection, change: &Change) -> Result<Change, Error> {
    let window = Window::read(connection, change)?;
    if window.is_simple(change) || change.script.is_some() {
        return Ok(change.clone());
    }
    let steps = plan(connection, change, &window)?.path.steps;
    Ok(Change { steps, ..change.clone() })
}

fn plan(connection: &Connection, change: &Change, window: &Window) -> Result<Plan, Error> {
    let settled = unsettled::settled(connection)?;
    let mut scratch = Scratch::new(&settled, window.order.clone())?;
    let now = scratch.try_out(|scratch| {
        let done = window.before.iter().filter(|past| past.state != State::Failed);
        for change in done.map(|past| &past.change).chain(&window.waiting) {
            scratch.replay(change)?;
        }
        scratch.shape()
    })?;
    let mut plan = Plan::default();
    let mut is_open = false;
    let is_in_place = window.known == Some(State::Failed);
    let before = window.before.iter().map(|past| (&past.change, past.state == State::Failed));
    let last = (!is_in_place).then_some((change, false));
    for (other, failed) in before.chain(last) {
        let is_it = other.id == change.id;
        if failed && !is_it {
            is_open = true; // Not all that comes after it has its place.
            continue;
        }
        let replayed = scratch.replay(other)?;
        plan.open.extend(replayed.before.iter().filter(|_| is_open).cloned());
        let settled = other.script.is_none().then(|| come_to(other, &replayed));
        if is_it {
            (plan.replayed, plan.settled) = (replayed, settled);
        } else {
            plan.others.extend(settled);
        }
    }
    for own in window.waiting.iter().filter(|own| own.id != change.id) {
        let replayed = scratch.replay(own)?;
        plan.others.push(come_to(own, &replayed));
        plan.open.extend(replayed.before);
    }
    let target = scratch.shape()?;
    let left_out = &scratch.left_out;
    let present = definitions::of_application(connection)?;
    let is_known = now.is(&present, |name| left_out.contains(name));
    let now = if is_known { now } else { without(Shape::named(connection, &target.origins)?, left_out) };
    plan.path = lead(&now, &target);
    (plan.target, plan.left_out) = (Some(target), scratch.left_out);
    Ok(plan)
}

fn come_to(change: &Change, replayed: &Replayed) -> Change {
    let comes_to = (replayed.steps != change.steps).then(|| replayed.steps.clone());
    Change { comes_to, ..change.clone() }
}

fn without(mut shape: Shape, left_out: &BTreeSet<String>) -> Shape {
    shape.things.retain(|thing| !left_out.contains(&thing.name));
    shape
}

fn follow(connection: &Connection, change: &Change, mut plan: Plan, keeps: bool) -> Result<Settled, Error> {
    let mut carried = Carried { lost: plan.replayed.lost, ..Carried::default() };
    let target = plan.target.take().unwrap_or(Shape { things: vec![], origins: Default::default() });
    if let Some(wanted) = &change.script {
        script::run(connection, wanted)?;
        carried.changed = true;
        plan.path = lead(&without(Shape::named(connection, &target.origins)?, &plan.left_out), &target);
    }
    let mut told_anew = vec![];
    // SQLite writes statements anew where something gets another name: what is not as it shall be then is made once more.
    for _ in 0..2 {
        if plan.path.steps.is_empty() {
            break;
        }
        let steps = std::mem::take(&mut plan.path.steps);
        let steps = Change { steps, script: None, ..change.clone() };
        let done = carry_out(connection, &steps, &Terms { keeps, fit: Fit::Exact })?;
        carried.changed |= done.changed;
        carried.rebuilt.extend(done.rebuilt);
        told_anew.append(&mut plan.path.told_anew);
        let now = without(Shape::named(connection, &target.origins)?, &plan.left_out);
        plan.path = lead(&now, &target);
    }
    unsettled::replace(connection, &plan.open)?;
    for other in &plan.others {
        history::rewrite(connection, other)?;
    }
    Ok(Settled { carried, change: plan.settled, told_anew })
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
