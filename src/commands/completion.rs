//! `-completion`: what a shell needs to complete our flags, made of the help text.

use super::manual::topics;
use std::fmt::Write;

/// A shell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shell {
    #[default]
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub const ACCEPTED: &'static str = "accepted is bash, zsh or fish";

    /// Reads the word after the flag.
    pub fn parse(word: &str) -> Option<Shell> {
        match word {
            "bash" => Some(Shell::Bash),
            "zsh" => Some(Shell::Zsh),
            "fish" => Some(Shell::Fish),
            _ => None,
        }
    }
}

/// A flag, and what it is for.
type Flag<'a> = (&'a str, &'a str);

/// The flags that a help text names: a line of two spaces, one or more flags with what follows them, two spaces, a text.
fn flags(help: &str) -> Vec<Flag<'_>> {
    let mut found: Vec<Flag<'_>> = vec![];
    for line in help.lines() {
        let Some(line) = line.strip_prefix("  ").filter(|line| line.starts_with('-')) else { continue };
        let (names, text) = line.split_once("  ").unwrap_or((line, ""));
        let text = text.trim();
        for name in names.split([' ', ',']).filter(|word| word.starts_with('-') && word.len() > 1) {
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, text));
            }
        }
    }
    found
}

/// The script.
pub fn completion(shell: Shell, help: &str) -> String {
    let flags = flags(help);
    let names: Vec<&str> = flags.iter().map(|(name, _)| *name).collect();
    match shell {
        Shell::Bash => format!(
            "# harmonylite -completion bash > /etc/bash_completion.d/harmonylite\n\
             _harmonylite() {{\n\
             \tlocal word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}\n\
             \tcase $before in\n\
             \t-config|-to|-db) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n\
             \t-print-service) COMPREPLY=($(compgen -W 'systemd procd cron' -- \"$word\")); return ;;\n\
             \t-completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$word\")); return ;;\n\
             \t-help) COMPREPLY=($(compgen -W 'topics {}' -- \"$word\")); return ;;\n\
             \tesac\n\
             \tCOMPREPLY=($(compgen -W '{}' -- \"$word\"))\n\
             }}\n\
             complete -o default -F _harmonylite harmonylite\n",
            topics().join(" "),
            names.join(" ")
        ),
        Shell::Zsh => {
            let mut script = "#compdef harmonylite\n# harmonylite -completion zsh > /usr/share/zsh/site-functions/_harmonylite\n\
                 _arguments \\\n"
                .to_owned();
            for (name, text) in &flags {
                let text = text.replace(['\'', '[', ']', ':', '\\'], " ");
                let _ = writeln!(script, "  '{name}[{text}]' \\");
            }
            script + "  '*:file:_files'\n"
        }
        Shell::Fish => {
            let mut script =
                "# harmonylite -completion fish > /etc/fish/completions/harmonylite.fish\n".to_owned();
            for (name, text) in &flags {
                let (name, text) = (&name[1..], text.replace(['\\', '\''], " "));
                let _ = writeln!(script, "complete -c harmonylite -o {name} -d '{text}'");
            }
            script
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "about\n\n  -config FILE          the file\n  -h, -help             print [this]: it's it\n  -a X -to FILE\n                        more\n";

    #[test]
    fn every_flag_of_the_help_is_completed_in_each_shell() {
        let names: Vec<&str> = flags(HELP).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["-config", "-h", "-help", "-a", "-to"]);
        assert!(completion(Shell::Bash, HELP).contains("compgen -W '-config -h -help -a -to'"));
        assert!(completion(Shell::Zsh, HELP).contains("  '-help[print  this   it s it]' \\\n"));
        assert!(completion(Shell::Fish, HELP).contains("-o help -d 'print [this]: it s it'\n"));
    }
}
