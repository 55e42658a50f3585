//! Servers for S3: moto, and Ceph's gateway. rclone's is in the module above.

use super::{
    KEY, OTHER_KEY, OTHER_SECRET, SECRET, Server, directory, listening, python, run, spawn, system, tool,
};
use crate::support::{Dir, free_port, wait_for};
use std::process::Command;

/// moto with its signature checks on. Returns an access key of a user who may do everything.
pub fn moto(dir: &Dir) -> (Server, String, String) {
    moto_with(dir, 3)
}

/// The same; the first `open` requests need no signature.
pub fn moto_with(dir: &Dir, open: u32) -> (Server, String, String) {
    let port = free_port();
    let mut command = Command::new(tool("moto_server"));
    command
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .env("INITIAL_NO_AUTH_ACTION_COUNT", open.to_string());
    let child = spawn(&mut command, &dir.0);
    listening(port, 60);
    let script = format!(
        "import boto3, json\n\
         iam = boto3.client('iam', endpoint_url='http://127.0.0.1:{port}', region_name='us-east-1', aws_access_key_id='x', aws_secret_access_key='x')\n\
         iam.create_user(UserName='u')\n\
         key = iam.create_access_key(UserName='u')['AccessKey']\n\
         allow = dict(Version='2012-10-17', Statement=[dict(Effect='Allow', Action='*', Resource='*')])\n\
         iam.put_user_policy(UserName='u', PolicyName='p', PolicyDocument=json.dumps(allow))\n\
         print(key['AccessKeyId'], key['SecretAccessKey'])\n"
    );
    let keys = python(&script);
    let (id, secret) = keys.trim().split_once(' ').unwrap();
    (Server { port, children: vec![child] }, id.to_owned(), secret.to_owned())
}

/// Ceph's S3 gateway with a monitor and one disk in memory.
pub fn ceph(dir: &Dir) -> Server {
    let base = directory(dir, "ceph");
    let (one, two, port) = (free_port(), free_port(), free_port());
    let uuid = || std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
    let fsid = uuid();
    for name in ["mon", "osd/0", "run", "log"] {
        std::fs::create_dir_all(base.join(name)).unwrap();
    }
    let at = base.display();
    // radosgw without authentication hangs on its default mode towards the monitor, `secure`.
    let config = format!(
        "[global]\nfsid = {fsid}\nmon host = [v2:127.0.0.1:{one},v1:127.0.0.1:{two}]\nauth cluster required = none\n\
         auth service required = none\nauth client required = none\nauth_supported = none\nms_mon_client_mode = crc\n\
         mon_allow_pool_size_one = true\nosd pool default size = 1\nosd pool default min size = 1\n\
         osd crush chooseleaf type = 0\nosd pool default pg num = 4\nosd pool default pgp num = 4\n\
         osd_pool_default_pg_autoscale_mode = off\nmon_max_pg_per_osd = 1000\nosd objectstore = memstore\n\
         memstore device bytes = 3221225472\nmon data avail crit = 1\nmon data = {at}/mon\nosd data = {at}/osd/$id\n\
         log file = {at}/log/$name.log\nadmin socket = {at}/run/$name.asok\npid file = {at}/run/$name.pid\n\
         keyring = {at}/keyring\npublic network = 127.0.0.0/8\nms bind ipv6 = false\n[client.rgw.a]\n\
         rgw frontends = beast endpoint=127.0.0.1:{port}\n"
    );
    let conf = base.join("ceph.conf");
    std::fs::write(&conf, config).unwrap();
    let conf = conf.to_str().unwrap().to_owned();
    let (keyring, monmap) = (format!("{at}/keyring"), format!("{at}/monmap"));
    let with = |name: &str, arguments: &[&str]| {
        let mut all = vec!["-c", conf.as_str()];
        all.extend(arguments);
        run(system(name), &all)
    };
    run(system("ceph-authtool"), &["--create-keyring", &keyring, "--gen-key", "-n", "client.rgw.a"]);
    let addresses = format!("[v2:127.0.0.1:{one},v1:127.0.0.1:{two}]");
    run(
        system("monmaptool"),
        &["--create", "--clobber", "--fsid", &fsid, "--addv", "a", &addresses, &monmap],
    );
    with("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &monmap]);
    let daemon = |name: &str, arguments: &[&str]| {
        spawn(Command::new(system(name)).args(["-c", conf.as_str(), "-f"]).args(arguments), &base)
    };
    let mut children = vec![daemon("ceph-mon", &["-i", "a"])];
    let osd = uuid();
    with("ceph", &["--connect-timeout", "60", "osd", "create", &osd]);
    with("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd]);
    children.push(daemon("ceph-osd", &["-i", "0"]));
    wait_for("the disk is up", 60, || {
        with("ceph", &["--connect-timeout", "60", "-s"]).contains("1 up").then_some(())
    });
    let user = ["-n", "client.rgw.a", "user", "create", "--uid", "t", "--display-name", "t"];
    with("radosgw-admin", &[&user[..], &["--access-key", KEY, "--secret", SECRET]].concat());
    let other = ["-n", "client.rgw.a", "user", "create", "--uid", "other", "--display-name", "other"];
    with("radosgw-admin", &[&other[..], &["--access-key", OTHER_KEY, "--secret", OTHER_SECRET]].concat());
    children.push(daemon("radosgw", &["-n", "client.rgw.a"]));
    listening(port, 90);
    Server { port, children }
}
