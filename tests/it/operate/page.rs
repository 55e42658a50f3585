//! The page of the health port, in a real browser.

use super::status::SCHEMA;
use crate::support::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// A browser without a window; none where it is not installed.
fn browser() -> Option<&'static Path> {
    let places = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];
    let found = places.into_iter().map(Path::new).find(|path| path.is_file());
    if found.is_none() {
        skip("no Chromium: run `make setup`");
    }
    found
}

/// What the browser makes of the page after so many milliseconds, its scripts included; with a picture if one is wanted.
fn shown(browser: &Path, dir: &Dir, port: u16, milliseconds: u32, picture: Option<&Path>) -> String {
    let mut command = Command::new(browser);
    command.args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=390,1100"]);
    command.arg(format!("--user-data-dir={}", dir.0.join("browser").display()));
    match picture {
        Some(path) => command.arg(format!("--screenshot={}", path.display())),
        None => command.arg("--dump-dom"),
    };
    command.arg(format!("--timeout={milliseconds}")).arg(format!("http://127.0.0.1:{port}/"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pair(dir: &Dir, nats: &Nats, port: u16) -> [Node; 2] {
    let health = format!("health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"");
    let mut nodes = [
        Node::with_schema(dir, 1, &nats.url(), &health, SCHEMA),
        Node::with_schema(dir, 2, &nats.url(), "", SCHEMA),
    ];
    nodes.iter_mut().for_each(Node::start_ready);
    nodes
}

/// Serves the page of a node; in each answer the node is healthy in another round.
fn in_rounds(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for round in 1.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 4_096]);
            let Some((_, html)) = http_get(port, "/") else { return };
            let html = html.replace(">healthy<", &format!(">round {round}<"));
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{html}", html.len());
        }
    });
    own
}

#[test]
fn the_page_fetches_itself_again() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("page-again");
    let nats = Nats::start(&dir);
    let port = free_port();
    let [one, _two] = pair(&dir, &nats, port);
    wait_for("node 1 is healthy", 10, || http_get(port, "/")?.1.contains(">healthy<").then_some(()));
    // The browser's clock runs ahead while nothing is on its way: nine seconds are four looks.
    let mut command = Command::new(browser);
    command.args([
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=9000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", dir.0.join("browser").display()));
    command.arg(format!("http://127.0.0.1:{}/", in_rounds(port)));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let html = String::from_utf8_lossy(&output.stdout);
    let rounds = (3..9).any(|round| html.contains(&format!(">round {round}<")));
    assert!(rounds, "{html}\n{}", one.log());
}

/// The row of the second node.
fn row(html: &str) -> String {
    let row = html.split("<tr>").find(|row| row.starts_with("<td class=\"\">2</td>"));
    row.unwrap_or_default().to_owned()
}

#[test]
fn the_page_needs_no_browser_to_be_read() {
    let dir = Dir::new("page");
    let nats = Nats::start(&dir);
    let port = free_port();
    let [_one, mut two] = pair(&dir, &nats, port);
    let page = || http_get(port, "/").unwrap();
    wait_for("node 2 is shown", 10, || row(&page().1).contains("<td class=\"good\">alive").then_some(()));
    let (code, html) = page();
    assert!(code == 200 && html.contains("id=\"status\" class=\"word good\">healthy<"), "{html}");
    assert_eq!(http_get(port, "/other").unwrap().0, 404);
    two.kill9();
    wait_for("node 2 is red", 5, || row(&page().1).contains("<td class=\"bad\">silent").then_some(()));
}

#[test]
fn a_browser_shows_a_node_that_was_killed() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("page-browser");
    let nats = Nats::start(&dir);
    let port = free_port();
    let [mut one, mut two] = pair(&dir, &nats, port);
    wait_for("node 2 is alive", 30, || {
        let html = shown(browser, &dir, port, 1_000, None);
        row(&html).contains("<td class=\"good\">alive").then_some(())
    });
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/pages");
    std::fs::create_dir_all(&pictures).unwrap();
    shown(browser, &dir, port, 1_000, Some(&pictures.join("alive.png")));
    two.kill9();
    wait_for("node 2 is red", 30, || {
        let html = shown(browser, &dir, port, 1_000, None);
        row(&html).contains("<td class=\"bad\">silent, last seen").then_some(())
    });
    let picture = pictures.join("silent.png");
    shown(browser, &dir, port, 1_000, Some(&picture));
    assert!(std::fs::metadata(&picture).unwrap().len() > 10_000, "a picture of the page");
    assert_eq!(one.stop(), 0);
}
