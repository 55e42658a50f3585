//! Real frameworks, as they come from their registry: migrations that one site runs, while both write.

use crate::support::servers::tool;
use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

fn run(dir: &Path, database: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(tool(program));
    let output = command.current_dir(dir).env("SITE_DB", database).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn write(path: PathBuf, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Waits until a node's table has a column, or has it no more; returns how long that took, in seconds.
fn wait_column(node: &Node, table: &str, column: &str, there: bool) -> f64 {
    let begun = Instant::now();
    let sql = format!("SELECT count(*) FROM pragma_table_info('{table}') WHERE name = '{column}'");
    let wanted = format!("Integer({})", u8::from(there));
    wait_for("the table follows", 20, || (value(node, &sql) == wanted).then_some(()));
    begun.elapsed().as_secs_f64()
}

/// Two nodes on the database that a framework has made on the first.
fn two_nodes(dir: &Dir, nats: &Nats, make: impl FnOnce(&Path)) -> (Node, Node) {
    let config = "snapshot.leader_ttl = 1000\n";
    let (mut one, mut two) = (Node::new(dir, 1, &nats.url(), config), Node::new(dir, 2, &nats.url(), config));
    make(&one.database);
    one.start_ready();
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 30);
    (one, two)
}

const MODELS: &str = "
from django.db import models
class Note(models.Model):
    title = models.CharField(max_length=50)
    body = models.TextField(default='')
    made = models.DateTimeField(auto_now_add=True)
class Line(models.Model):
    text = models.TextField(unique=True)
";

/// A request is an INSERT through the framework, with a query before it.
const REQUESTS: &str = "
import os, sys, time, django
os.environ['DJANGO_SETTINGS_MODULE'] = 'site_.settings'
django.setup()
from notes.models import Line
from django.db import transaction
stop, prefix = sys.argv[1:]
n, errors = 0, []
while not os.path.exists(stop):
    try:
        with transaction.atomic():
            Line.objects.create(text=f'{prefix} {n}')
        n += 1
    except Exception as error:
        errors.append(repr(error))
    time.sleep(0.01)
print(n, errors)
";

struct Site {
    child: Process,
    stop: PathBuf,
}

fn requests(site: &Path, node: &Node, prefix: &str) -> Site {
    let stop = site.join("stop");
    write(site.join("requests.py"), REQUESTS);
    let mut command = Command::new(tool("python"));
    command.current_dir(site).env("SITE_DB", &node.database).arg("requests.py").arg(&stop).arg(prefix);
    Site { child: Process::start(command.stdout(Stdio::piped())), stop }
}

impl Site {
    /// How many requests it has answered; none failed.
    fn end(self) -> u64 {
        write(self.stop, "");
        let text = String::from_utf8(self.child.output().stdout).unwrap();
        let (count, errors) = text.trim().split_once(' ').unwrap();
        assert_eq!(errors, "[]");
        count.parse().unwrap()
    }
}

fn migration(site: &Path, name: &str, after: &str, operations: &str) {
    let text = format!(
        "from django.db import migrations, models\nclass Migration(migrations.Migration):\n    dependencies = [('notes', '{after}')]\n    \
         operations = [{operations}]\n"
    );
    write(site.join(format!("notes/migrations/{name}.py")), &text);
}

#[test]
fn django_migrates_one_site_and_the_other_one_follows() {
    let dir = Dir::new("django");
    let nats = Nats::start(&dir);
    let (site, other) = (dir.0.join("one"), dir.0.join("two"));
    std::fs::create_dir(&site).unwrap();
    let nowhere = dir.0.join("none.db");
    run(&site, &nowhere, "python", &["-m", "django", "startproject", "site_", "."]);
    run(&site, &nowhere, "python", &["manage.py", "startapp", "notes"]);
    write(site.join("notes/models.py"), MODELS);
    let settings = std::fs::read_to_string(site.join("site_/settings.py")).unwrap();
    let settings = settings
        + "\nINSTALLED_APPS += ['notes']\nDATABASES['default']['NAME'] = __import__('os').environ['SITE_DB']\n";
    write(site.join("site_/settings.py"), &settings);
    let (mut one, mut two) = two_nodes(&dir, &nats, |database| {
        run(&site, database, "python", &["manage.py", "makemigrations", "notes"]);
        run(&site, database, "python", &["manage.py", "migrate"]);
    });
    one.sql("INSERT INTO notes_note(title, body, made) VALUES('first', 'text', '2026-01-01'), ('second', '', '2026-01-02')");
    copy(&site, &other);
    let (first, second) = (requests(&site, &one, "one"), requests(&other, &two, "two"));
    pause(1_500);
    let manage =
        |site: &Path, node: &Node| run(site, &node.database, "python", &["manage.py", "migrate", "notes"]);
    // A field more, then one less and one under another name.
    migration(
        &site,
        "0002_rank",
        "0001_initial",
        "migrations.AddField('note', 'rank', models.IntegerField(default=7)), migrations.AddField('line', 'mark', models.TextField(null=True))",
    );
    manage(&site, &one);
    let added = wait_column(&two, "notes_note", "rank", true);
    migration(
        &site,
        "0003_name",
        "0002_rank",
        "migrations.RemoveField('note', 'body'), migrations.RenameField('note', 'title', 'name')",
    );
    manage(&site, &one);
    let renamed = wait_column(&two, "notes_note", "name", true);
    wait_column(&two, "notes_note", "body", false);
    copy(&site.join("notes/migrations"), &other.join("notes"));
    // The rows that say so come with it.
    wait_for("it knows of the migration", 10, || {
        (value(&two, "SELECT count(*) FROM django_migrations WHERE name = '0003_name'") == "Integer(1)")
            .then_some(())
    });
    let told = manage(&other, &two);
    assert!(told.contains("No migrations to apply"), "{told}");
    pause(500);
    let written = first.end() + second.end();
    wait_equal(&mut [&mut one, &mut two], 30);
    assert_eq!(value(&two, "SELECT count(*) FROM notes_line"), format!("Integer({written})"));
    assert_eq!(
        value(&two, "SELECT group_concat(name || rank) FROM notes_note ORDER BY id"),
        value(&one, "SELECT 'first7,second7'")
    );
    assert_eq!(one.count("cannot follow") + two.count("cannot follow"), 0);
    eprintln!("the other site's tables followed after {added:.2} and {renamed:.2} s, {written} requests");
}

#[test]
fn alembic_migrates_one_node_and_the_other_one_follows() {
    let dir = Dir::new("alembic");
    let nats = Nats::start(&dir);
    let project = dir.0.join("project");
    std::fs::create_dir(&project).unwrap();
    let nowhere = dir.0.join("none.db");
    run(&project, &nowhere, "python", &["-m", "alembic", "init", "migrations"]);
    let env = std::fs::read_to_string(project.join("migrations/env.py")).unwrap();
    let env = env.replace("config = context.config", "import os\nconfig = context.config\nconfig.set_main_option('sqlalchemy.url', 'sqlite:///' + os.environ['SITE_DB'])");
    write(project.join("migrations/env.py"), &env);
    let version = |name: &str, after: &str, body: &str| {
        let text = format!(
            "from alembic import op\nimport sqlalchemy as sa\nrevision = '{name}'\ndown_revision = {after}\nbranch_labels = None\ndepends_on = None\n\
             def upgrade():\n{body}\ndef downgrade():\n    pass\n"
        );
        write(project.join(format!("migrations/versions/{name}.py")), &text);
    };
    version(
        "r1",
        "None",
        "    op.create_table('item', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.String(20)), sa.Column('old', sa.Text))",
    );
    let upgrade = |node: &Path| run(&project, node, "python", &["-m", "alembic", "upgrade", "head"]);
    let (mut one, mut two) = two_nodes(&dir, &nats, |database| drop(upgrade(database)));
    one.sql("INSERT INTO item VALUES(1, 'a', 'x'), (2, 'b', 'y')");
    wait_equal(&mut [&mut one, &mut two], 20);
    version(
        "r2",
        "'r1'",
        "    with op.batch_alter_table('item') as batch:\n        batch.add_column(sa.Column('price', sa.Numeric, server_default='5', nullable=False))\n        \
         batch.alter_column('name', new_column_name='title')\n    op.create_index('by_title', 'item', ['title'], unique=True)",
    );
    upgrade(&one.database);
    wait_column(&two, "item", "title", true);
    version(
        "r3",
        "'r2'",
        "    with op.batch_alter_table('item', recreate='always') as batch:\n        batch.drop_column('old')",
    );
    two.sql("INSERT INTO item(id, title, old) VALUES(3, 'c', 'z')");
    upgrade(&one.database);
    wait_column(&two, "item", "old", false);
    wait_equal(&mut [&mut one, &mut two], 20);
    assert!(!upgrade(&two.database).contains("Running upgrade"));
    two.sql("INSERT INTO item(id, title, price) VALUES(4, 'd', 1)");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(
        value(&one, "SELECT group_concat(title || price) FROM item"),
        value(&one, "SELECT 'a5,b5,c5,d1'")
    );
    // As ALTER TABLE, with nothing between the two.
    version("r4", "'r3'", "    op.drop_index('by_title', 'item')\n    op.drop_column('item', 'title')");
    upgrade(&one.database);
    wait_column(&two, "item", "title", false);
    wait_equal(&mut [&mut one, &mut two], 20);
    let shape = |node: &Node| {
        let sql = "SELECT group_concat(name || type || \"notnull\" || coalesce(dflt_value, '')) FROM pragma_table_info('item')";
        value(node, sql)
    };
    assert_eq!(shape(&one), shape(&two));
}
