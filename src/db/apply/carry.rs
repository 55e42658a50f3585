//! A plan carried out: the only place where the rows of events are changed.

use crate::base::fail;
use crate::db::apply::rows::{self, Failure};
use crate::db::apply::{facts::Gathered, savepoint, session::Session, subject::Subject};
use crate::db::table::Table;
use crate::model::fold::{Plan, Row};
use crate::model::value::Value;

/// Carries out a plan that was made from these facts. (A new incarnation is the caller's business.) If it fails, nothing has
/// changed.
pub fn carry_out(
    session: &mut Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<(), Failure> {
    session.applied.rows += change_rows(session, subject, gathered, plan)?;
    fail::point("row written");
    let Some(touched) = &mut session.touched else { return Ok(()) };
    // Logged before it is settled: the new entry has an id above the event's and stays.
    if plan.touch {
        touched.touch(
            &session.connection,
            &subject.table,
            subject.key_values.iter().copied(),
            &subject.key,
        )?;
        session.applied.touched += 1;
        fail::point("row logged");
    }
    if plan.settle {
        touched.settle(&session.connection, &subject.key, &gathered.unsettled)?;
        session.applied.settled += gathered.unsettled.len();
        fail::point("echo settled");
    }
    Ok(())
}

/// Returns the number of rows written or deleted.
fn change_rows(
    session: &Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<usize, Failure> {
    if plan.displace.is_empty() {
        return change_row(session, subject, plan);
    }
    // A row that cannot be written after all must not have displaced others.
    savepoint::all_or_nothing(&session.connection, "displace", || {
        let displaced = displace(session, subject, gathered, plan)?;
        Ok(displaced + change_row(session, subject, plan)?)
    })
}

fn displace(
    session: &Session,
    subject: &Subject<'_>,
    gathered: &Gathered,
    plan: &Plan,
) -> Result<usize, Failure> {
    let mut rows = 0;
    for at in &plan.displace {
        rows += delete(session, &subject.table, &gathered.colliding[*at])?;
    }
    Ok(rows)
}

/// Deletes a row.
pub fn delete(session: &Session, table: &Table, key: &[Value]) -> Result<usize, Failure> {
    let connection = &session.connection;
    session.mirrored.guard(connection, &table.name, || rows::delete(connection, table, key))
}

fn change_row(session: &Session, subject: &Subject<'_>, plan: &Plan) -> Result<usize, Failure> {
    let (connection, mirrored) = (&session.connection, &session.mirrored);
    mirrored.guard(connection, &subject.table.name, || match plan.row {
        Row::Keep => Ok(0),
        Row::Write if mirrored.has_copies(&subject.table.name) => rows::write_in_two(connection, subject),
        Row::Write => rows::write(connection, subject),
        Row::Delete => rows::delete(connection, &subject.table, subject.key_values.iter().copied()),
    })
}
