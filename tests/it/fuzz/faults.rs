//! What goes wrong, or is done to a database, while the applications write.

use super::cluster::Cluster;
use super::tables::{self, Migration};
use crate::support::*;
use std::time::{Duration, Instant};

/// What every run must have had.
pub const FAULTS: &[&str] = &[
    "kill",
    "stop",
    "partition",
    "broker kill",
    "broker stop",
    "snapshot",
    "restore",
    "VACUUM",
    "wal_checkpoint",
    "ADD COLUMN",
    "CREATE INDEX",
    "CREATE TABLE",
];

/// What may happen while something else goes on; not to the node that is stopped, which may hold a lock.
const DURING: &[&str] = &["kill", "VACUUM", "wal_checkpoint"];

impl Cluster {
    pub fn fault(&mut self, what: &'static str) {
        let at = self.random.place(3);
        self.tally.count(what);
        match what {
            "stop" => {
                self.say(&format!("stop {}", at + 1));
                self.nodes[at].signal("STOP");
                self.meanwhile(Some(at));
                self.nodes[at].signal("CONT");
            }
            "partition" => {
                self.say(&format!("partition {}", at + 1));
                self.lines[at].cut();
                self.meanwhile(None);
                self.lines[at].mend();
            }
            "broker kill" => {
                self.say(what);
                self.nats.kill();
                self.meanwhile(None);
                self.nats.restart();
            }
            "broker stop" => {
                self.say(what);
                self.nats.signal("STOP");
                self.meanwhile(None);
                self.nats.signal("CONT");
            }
            "snapshot" => self.snapshot(at),
            "restore" => self.restore(at),
            "ADD COLUMN" | "CREATE INDEX" | "CREATE TABLE" => self.migrate(what),
            _ => self.shortly(what, at),
        }
    }

    /// Time passes, in which something else happens, too.
    fn meanwhile(&mut self, not: Option<usize>) {
        pause(200 + self.random.below(700));
        let (at, what) = (self.random.place(3), self.random.of(DURING));
        if not != Some(at) && !self.random.one_in(3) {
            self.tally.count(what);
            self.tally.count("one fault during another");
            self.shortly(what, at);
            pause(self.random.below(500));
        }
    }

    fn shortly(&mut self, what: &'static str, at: usize) {
        self.say(&format!("{what} {}", at + 1));
        match what {
            "kill" => {
                let at = self.mortal(at);
                self.nodes[at].kill9();
                pause(self.random.below(400));
                self.start_daemon(at);
            }
            "VACUUM" => self.desks[at].lock().unwrap().application.run("VACUUM"),
            _ => self.desks[at].lock().unwrap().application.run("PRAGMA wal_checkpoint(TRUNCATE)"),
        }
    }

    /// This node, or the next one if this one's daemon is to live.
    fn mortal(&self, at: usize) -> usize {
        if self.lasting == Some(at) { (at + 1) % 3 } else { at }
    }

    fn snapshot(&mut self, at: usize) {
        self.say(&format!("snapshot {}", at + 1));
        wait_for("a snapshot is made", 60, || {
            let output = self.nodes[at].command(&["-save-snapshot", "-quiet"]);
            let code = output.status.code();
            // 75: not now.
            assert!(matches!(code, Some(0 | 75)), "{code:?}: {}", printed(&output));
            (code == Some(0)).then_some(())
        });
    }

    /// A node loses its database when others have all that it wrote, and restores itself.
    fn restore(&mut self, at: usize) {
        let at = self.mortal(at);
        self.say(&format!("restore {}", at + 1));
        let desks = self.desks.clone();
        let mut desk = desks[at].lock().unwrap();
        wait_for("all that it wrote came back", 60, || {
            self.nodes[at].assert_alive();
            (self.nodes[at].unsettled() == 0).then_some(())
        });
        if self.random.one_in(2) {
            self.nodes[at].kill9();
        } else {
            assert_eq!(self.nodes[at].stop(), 0);
        }
        self.take_conflicts(at);
        self.lives[at] += 1;
        desk.application.close();
        self.nodes[at].remove_database();
        if self.random.one_in(2) {
            let _ = std::fs::remove_file(self.nodes[at].dir.join("seq-map.cbor"));
        }
        let before = self.nodes[at].count("caught up with");
        self.start_daemon(at);
        let begun = Instant::now();
        wait_for("it is whole again", 90, || {
            self.nodes[at].assert_alive();
            (self.nodes[at].count("caught up with") > before).then_some(())
        });
        desk.application.open();
        // The snapshot may be older than the newest changes of the schema: an application makes them at its start.
        for migration in &self.migrations {
            desk.application.migrate(&migration.statements);
        }
        if begun.elapsed() > Duration::from_secs(10) {
            self.say(&format!("it took {:?}", begun.elapsed()));
        }
    }

    /// All nodes get a change of the schema, one after the other.
    fn migrate(&mut self, what: &'static str) {
        let number = self.migrations.len();
        let now = &self.migrations[number - 1].tables;
        let migration: Migration = match what {
            "ADD COLUMN" => tables::add_column(&mut self.random, now),
            "CREATE INDEX" => tables::create_index(&mut self.random, now, number),
            _ => tables::create_table(&mut self.random, now, number, &mut self.tally),
        };
        self.say(&migration.statements.join("; "));
        self.migrations.push(migration.clone());
        let order = self.random.shuffled(&[0, 1, 2]);
        for at in &order {
            let desks = self.desks.clone();
            if self.travels && *at != order[0] {
                self.await_schema(order[0], *at);
            }
            let mut desk = desks[*at].lock().unwrap();
            if !self.travels || *at == order[0] {
                desk.application.migrate(&migration.statements);
            }
            desk.tables.clone_from(&migration.tables);
            drop(desk);
            pause(self.random.below(400));
        }
    }

    /// A node gets what another one's application has changed.
    fn await_schema(&mut self, from: usize, at: usize) {
        let names = "SELECT group_concat(name, '; ') FROM (SELECT m.type || ' ' || m.name || ' ' || coalesce(c.name, '') AS name \
             FROM sqlite_schema AS m LEFT JOIN pragma_table_xinfo(m.name) AS c ON m.type = 'table' \
             WHERE m.name NOT LIKE '\\_\\_harmonylite%' ESCAPE '\\' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1)";
        let begun = Instant::now();
        wait_for("the schema arrives", 60, || {
            self.nodes[at].assert_alive();
            (value(&self.nodes[at], names) == value(&self.nodes[from], names)).then_some(())
        });
        self.say(&format!("node {} has the schema of node {} after {:?}", at + 1, from + 1, begun.elapsed()));
    }
}
