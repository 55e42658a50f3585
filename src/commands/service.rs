//! `-print-service`: ready files for systemd, OpenWrt's procd and cron, made for this configuration.

use crate::base::error::{Error, Kind};
use crate::base::files;
use crate::config::Config;
use crate::storage::Location;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who is to start the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    #[default]
    Systemd,
    Procd,
    Cron,
}

impl Service {
    pub const ACCEPTED: &'static str = "accepted is systemd, procd or cron";

    /// Reads the word after the flag.
    pub fn parse(word: &str) -> Option<Service> {
        match word {
            "systemd" => Some(Service::Systemd),
            "procd" => Some(Service::Procd),
            "cron" => Some(Service::Cron),
            _ => None,
        }
    }
}

/// Prints the file. `file`: the configuration.
pub fn print_service(config: &Config, file: Option<&Path>, service: Service) -> Result<(), Error> {
    let file = file.ok_or_else(|| Error::usage("-print-service needs -config FILE"))?;
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| Error::local(format!("{}: {error}", path.display())))
    };
    let program = std::env::current_exe().map_err(|error| Error::local(format!("this program: {error}")))?;
    let setting = Setting {
        program: text(&program)?,
        config: text(&absolute(file)?)?,
        user: owner(&config.db_path),
        places: places(config).iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        own_server: config.nats.urls.is_empty(),
        database: text(&absolute(&config.db_path)?)?,
    };
    print!(
        "{}",
        match service {
            Service::Systemd => setting.systemd(),
            Service::Procd => setting.procd(),
            Service::Cron => setting.cron(),
        }
    );
    Ok(())
}

fn text(path: &Path) -> Result<String, Error> {
    let fits = |text: &&str| !text.contains(|c: char| c.is_control() || "\"'$%\\`".contains(c));
    let text = path.to_str().filter(fits);
    let unfit = || Error::new(Kind::Usage, format!("{}: no such path can be written there", path.display()));
    Ok(text.ok_or_else(unfit)?.to_owned())
}

/// Directories that the daemon writes to.
fn places(config: &Config) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::from([
        files::parent(&config.db_path),
        files::parent(&config.db_path_given),
        files::parent(&config.seq_map_path),
        config.temp_dir(),
    ]);
    if let Location::File(dir) = &config.snapshot.store {
        places.insert(dir.clone());
    }
    places
}

/// User and group of the database, or of its directory: numbers, which need no entry anywhere.
fn owner(database: &Path) -> (u32, u32) {
    let of = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.uid(), meta.gid()));
    of(database).or_else(|| of(&files::parent(database))).unwrap_or((0, 0))
}

struct Setting {
    program: String,
    config: String,
    user: (u32, u32),
    places: Vec<PathBuf>,
    own_server: bool,
    database: String,
}

/// Directories that a sandbox has its own of, or none.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

impl Setting {
    /// Whether anything that the daemon needs lies below one of these.
    fn lies_below(&self, roots: &[&str]) -> bool {
        let files = [Path::new(&self.config), Path::new(&self.program)];
        let mut needed = self.places.iter().map(PathBuf::as_path).chain(files);
        needed.any(|path| roots.iter().any(|root| path.starts_with(root)))
    }

    fn systemd(&self) -> String {
        let yes_unless = |needed: bool| if needed { "no" } else { "yes" };
        let (user, group) = self.user;
        let places: Vec<String> = self.places.iter().map(|path| format!("\"{}\"", path.display())).collect();
        // A nats-server of ours is asked to stop by the daemon, after what is captured has been published.
        let kill = if self.own_server { "KillMode=mixed\n" } else { "" };
        format!(
            "# harmonylite -print-service systemd > /etc/systemd/system/harmonylite.service\n\
             # systemctl daemon-reload && systemctl enable --now harmonylite\n\
             [Unit]\n\
             Description=Replicates {} between nodes\n\
             Wants=network-online.target\n\
             After=network-online.target nats-server.service\n\
             \n\
             [Service]\n\
             Type=notify\n\
             ExecStart=\"{}\" -config \"{}\"\n\
             User={user}\n\
             Group={group}\n\
             UMask=0077\n\
             Restart=on-failure\n\
             RestartSec=5\n\
             RestartPreventExitStatus=2\n\
             WatchdogSec=60\n\
             TimeoutStopSec=20\n\
             {kill}\
             ProtectSystem=strict\n\
             ReadWritePaths={}\n\
             PrivateTmp={}\n\
             ProtectHome={}\n\
             NoNewPrivileges=yes\n\
             CapabilityBoundingSet=\n\
             PrivateDevices=yes\n\
             ProtectClock=yes\n\
             ProtectControlGroups=yes\n\
             ProtectHostname=yes\n\
             ProtectKernelLogs=yes\n\
             ProtectKernelModules=yes\n\
             ProtectKernelTunables=yes\n\
             ProtectProc=invisible\n\
             LockPersonality=yes\n\
             MemoryDenyWriteExecute=yes\n\
             RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
             RestrictNamespaces=yes\n\
             RestrictRealtime=yes\n\
             RestrictSUIDSGID=yes\n\
             SystemCallArchitectures=native\n\
             SystemCallFilter=@system-service\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            self.database,
            self.program,
            self.config,
            places.join(" "),
            yes_unless(self.lies_below(&TEMPORARY)),
            yes_unless(self.lies_below(&HOMES)),
        )
    }

    fn procd(&self) -> String {
        format!(
            "#!/bin/sh /etc/rc.common\n\
             # harmonylite -print-service procd > /etc/init.d/harmonylite\n\
             # chmod 755 /etc/init.d/harmonylite && /etc/init.d/harmonylite enable && /etc/init.d/harmonylite start\n\
             # Settings, if others than these: /etc/config/harmonylite\n\
             #   config harmonylite 'main'\n\
             #       option enabled '1'\n\
             #       option config '{0}'\n\
             \n\
             USE_PROCD=1\n\
             START=95\n\
             STOP=10\n\
             \n\
             start_service() {{\n\
             \tlocal enabled config\n\
             \tconfig_load harmonylite\n\
             \tconfig_get_bool enabled main enabled 1\n\
             \tconfig_get config main config \"{0}\"\n\
             \t[ \"$enabled\" = 1 ] || return 0\n\
             \tprocd_open_instance\n\
             \tprocd_set_param command \"{1}\" -config \"$config\"\n\
             \tprocd_set_param file \"$config\"\n\
             \tprocd_set_param respawn 3600 5 0\n\
             \tprocd_set_param term_timeout 15\n\
             \tprocd_set_param stdout 1\n\
             \tprocd_set_param stderr 1\n\
             \tprocd_set_param no_new_privs 1\n\
             \tprocd_close_instance\n\
             }}\n\
             \n\
             service_triggers() {{\n\
             \tprocd_add_reload_trigger harmonylite\n\
             }}\n",
            self.config, self.program
        )
    }

    fn cron(&self) -> String {
        let command = format!("\"{}\" -config \"{}\"", self.program, self.config);
        format!(
            "# harmonylite -print-service cron > /etc/cron.d/harmonylite\n\
             # Cron mails what these print, which is nothing when all is well. Another user than root may be better.\n\
             PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
             # A snapshot each night; an unchanged database is not stored again.\n\
             17 3 * * * root {command} -save-snapshot -quiet\n\
             # What a person should look at.\n\
             */15 * * * * root {command} -status -quiet\n\
             # Whether all nodes are equal.\n\
             43 4 * * 0 root {command} -verify -quiet\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            program: "/usr/bin/harmonylite".into(),
            config: "/etc/harmonylite.toml".into(),
            user: (33, 34),
            places: vec!["/var/lib/my app".into()],
            own_server: false,
            database: "/var/lib/my app/app.db".into(),
        }
    }

    #[test]
    fn a_unit_reaches_the_database_and_nothing_else() {
        let unit = setting().systemd();
        for line in [
            "Type=notify",
            "User=33",
            "Group=34",
            "ReadWritePaths=\"/var/lib/my app\"",
            "PrivateTmp=yes",
            "ProtectHome=yes",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line} in {unit}");
        }
        assert!(!unit.contains("KillMode"));
        let at_home =
            Setting { places: vec!["/home/pi/app".into(), "/tmp".into()], own_server: true, ..setting() };
        let unit = at_home.systemd();
        for line in ["PrivateTmp=no", "ProtectHome=no", "KillMode=mixed"] {
            assert!(unit.lines().any(|found| found == line), "{line} in {unit}");
        }
    }

    #[test]
    fn a_path_that_would_mean_something_else_there_is_refused() {
        for path in ["/a%b", "/a$b", "/a\"b", "/a\nb", "/a`b`"] {
            assert!(text(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(text(Path::new("/a b/ü")).unwrap(), "/a b/ü");
    }
}
