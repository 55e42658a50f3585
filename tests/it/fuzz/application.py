"""The application of one node: runs transactions that come as lines of JSON, through the system's SQLite, and answers each with
what it changed, row by row. What it reports is read inside of the transaction, so it is exact."""
import json, sqlite3, struct, sys

PATH = sys.argv[1]
OURS = ("sqlite_", "__harmonylite")


class Text(bytes):
    """Text as its bytes, whether they are UTF-8 or not."""


def shown(value):
    if value is None:
        return "n"
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return "r" + struct.pack(">d", value).hex()
    return ("t" if isinstance(value, Text) else "b") + value.hex()


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


class Application:
    def __init__(self):
        self.db = None

    def open(self, _):
        self.db = sqlite3.connect(f"file:{PATH}?mode=rw", uri=True, timeout=60, isolation_level=None)
        self.db.text_factory = Text
        self.db.execute("PRAGMA foreign_keys=ON")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute("CREATE TEMP TABLE held(n INTEGER PRIMARY KEY, v)")
        self.db.execute("CREATE TEMP TABLE touched(tbl, k1, k2)")
        self.version, self.tables = None, []
        return {}

    def close(self, _):
        self.db.close()
        self.db = None
        return {}

    def text(self, sql):
        return [tuple(v.decode() if isinstance(v, Text) else v for v in row) for row in self.db.execute(sql)]

    def look(self):
        """Reads the schema, if it has changed."""
        version = self.db.execute("PRAGMA schema_version").fetchone()[0]
        if version == self.version:
            return
        self.version, self.tables = version, []
        names = self.text("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        for (name,) in names:
            if name.startswith(OURS):
                continue
            columns = [row for row in self.text(f"PRAGMA table_xinfo({quoted(name)})") if row[6] == 0]
            stored = [row[1] for row in columns]
            key = sorted(row[1] for row in columns if row[5] > 0)
            sql = f"SELECT {', '.join(map(quoted, stored))} FROM {quoted(name)}"
            self.tables.append((name, stored, key, sql))
            self.watch(name, key)

    def watch(self, name, key):
        """A write that leaves a row as it was is a write, too: only triggers see it."""
        for event, images in (("INSERT", ["new"]), ("UPDATE", ["old", "new"]), ("DELETE", ["old"])):
            values = lambda image: ", ".join([f"{image}.{quoted(column)}" for column in key] + ["NULL"] * (2 - len(key)))
            text = name.replace("'", "''")
            body = "".join(f"INSERT INTO touched VALUES('{text}', {values(image)});" for image in images)
            trigger = quoted(f"touched by {event} on {name}")
            self.db.execute(
                f"CREATE TEMP TRIGGER IF NOT EXISTS {trigger} AFTER {event} ON main.{quoted(name)} BEGIN {body} END"
            )

    def touched(self):
        keys = {name: key for name, _, key, _ in self.tables}
        for name, *values in self.db.execute("SELECT DISTINCT tbl, k1, k2 FROM temp.touched").fetchall():
            name = name.decode()
            yield name, ",".join(f"{column}={shown(value)}" for column, value in zip(keys[name], values))

    def rows(self):
        self.look()
        found = {}
        for name, stored, key, sql in self.tables:
            places = [(column, stored.index(column)) for column in key]
            for row in self.db.execute(sql):
                values = [shown(value) for value in row]
                found[name, ",".join(f"{column}={values[at]}" for column, at in places)] = (stored, values)
        return found

    def transaction(self, order):
        db, done = self.db, []
        self.look()
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM temp.touched")
        before, changes = self.rows(), db.total_changes
        for sql in order["statements"]:
            try:
                done.append(db.execute(sql).rowcount)
            except sqlite3.IntegrityError as error:
                done.append(str(error))
            except sqlite3.Error as error:
                raise RuntimeError(f"{error}: {sql}")
        after = self.rows() if db.total_changes != changes else before
        touched = set(self.touched())
        try:
            db.execute("COMMIT" if order["commit"] else "ROLLBACK")
        except sqlite3.IntegrityError:
            # A deferred foreign key.
            db.execute("ROLLBACK")
            return {"done": [], "changes": []}
        if not order["commit"]:
            return {"done": done, "changes": []}
        image = lambda row: row and dict(zip(*row))
        changed = [
            {"table": table, "key": key, "before": image(before.get((table, key))), "after": image(after.get((table, key)))}
            for table, key in sorted(before.keys() | after.keys() | touched)
            if before.get((table, key)) != after.get((table, key)) or (table, key) in touched
        ]
        return {"done": done, "changes": changed}

    def migrate(self, order):
        for sql in order["statements"]:
            try:
                self.db.execute(sql)
            except sqlite3.OperationalError as error:
                # It is there: the database came from a snapshot, or the change from another node.
                if "already exists" not in str(error) and "duplicate column" not in str(error):
                    raise
        return {}

    def run(self, order):
        for sql in order["statements"]:
            self.db.execute(sql).fetchall()
        return {}

    def state(self, _):
        """All rows, what quick_check says, and the rows whose parent is missing."""
        self.db.execute("BEGIN")
        rows = [{"table": t, "key": k, "image": dict(zip(*row))} for (t, k), row in sorted(self.rows().items())]
        orphans = []
        for table, rowid, _, _ in self.text("PRAGMA foreign_key_check"):
            key = next(key for name, _, key, _ in self.tables if name == table)
            sql = f"SELECT {', '.join(map(quoted, key))} FROM {quoted(table)} WHERE rowid = ?"
            values = self.db.execute(sql, (rowid,)).fetchone()
            orphans.append({"table": table, "key": ",".join(f"{c}={shown(v)}" for c, v in zip(key, values))})
        # SQLite finds them in the order of the rowids, which each node gives by itself.
        orphans.sort(key=lambda orphan: (orphan["table"], orphan["key"]))
        check = [row[0] for row in self.text("PRAGMA quick_check")]
        self.db.execute("COMMIT")
        return {"rows": rows, "orphans": orphans, "check": check}


application = Application()
for line in sys.stdin:
    order = json.loads(line)
    try:
        answer = getattr(application, order["do"])(order)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
