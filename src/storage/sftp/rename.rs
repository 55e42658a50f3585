//! The SFTP request `posix-rename@openssh.com`, which replaces a file at one instant and which the library does not know
//! (sources: OpenSSH's PROTOCOL file, 4.3, and draft-ietf-secsh-filexfer-02).

use std::io::{self, Read, Write};

const INIT: u8 = 1;
const VERSION: u8 = 2;
const STATUS: u8 = 101;
const EXTENDED: u8 = 200;
const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// Bytes of an answer, at most: those to these requests are short.
const PACKET_MAX: u32 = 64 << 10;

/// What the server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    Yes,
    /// The file to rename is not there.
    Missing,
    /// The server does not know the request.
    Unknown,
    /// Refused, with the protocol's status code.
    Refused(u32),
}

fn packet(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let length: usize = fields.iter().map(|field| field.len()).sum::<usize>() + 1;
    let mut bytes = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.push(kind);
    fields.iter().for_each(|field| bytes.extend_from_slice(field));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn read_packet(channel: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    channel.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    if !(1..=PACKET_MAX).contains(&length) {
        return Err(io::Error::other(format!("an SFTP packet of {length} bytes")));
    }
    let mut rest = vec![0; length as usize - 1];
    channel.read_exact(&mut rest)?;
    Ok((head[4], rest))
}

/// Whether the server offers the request, over a channel on which the SFTP subsystem was just started.
pub fn is_offered(channel: &mut (impl Read + Write)) -> io::Result<bool> {
    channel.write_all(&packet(INIT, &[&3u32.to_be_bytes()]))?;
    let (kind, extensions) = read_packet(channel)?;
    if kind != VERSION {
        return Err(io::Error::other(format!("an SFTP packet of kind {kind} instead of the version")));
    }
    let name = text(POSIX_RENAME);
    Ok(extensions.windows(name.len()).any(|window| window == name))
}

/// Renames over a channel on which the SFTP subsystem was just started, and which is used for nothing else.
pub fn posix_rename(channel: &mut (impl Read + Write), from: &str, to: &str) -> io::Result<Renamed> {
    if !is_offered(channel)? {
        return Ok(Renamed::Unknown);
    }
    let name = text(POSIX_RENAME);
    let id = 1u32.to_be_bytes();
    channel.write_all(&packet(EXTENDED, &[&id, &name, &text(from), &text(to)]))?;
    let (kind, answer) = read_packet(channel)?;
    match (kind, answer.get(4..8)) {
        (STATUS, Some(code)) => Ok(match u32::from_be_bytes([code[0], code[1], code[2], code[3]]) {
            0 => Renamed::Yes,
            2 => Renamed::Missing,
            8 => Renamed::Unknown,
            code => Renamed::Refused(code),
        }),
        _ => Err(io::Error::other(format!("an SFTP packet of kind {kind} instead of a status"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers from a script; what is written is kept.
    struct Script(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn run(answers: &[Vec<u8>]) -> io::Result<Renamed> {
        posix_rename(&mut Script(io::Cursor::new(answers.concat()), vec![]), "a", "b")
    }

    #[test]
    fn answers_of_servers() {
        let version = packet(VERSION, &[&3u32.to_be_bytes(), &text(POSIX_RENAME), &text("1")]);
        let status =
            |code: u32| packet(STATUS, &[&1u32.to_be_bytes(), &code.to_be_bytes(), &text("x"), &text("")]);
        assert_eq!(run(&[version.clone(), status(0)]).unwrap(), Renamed::Yes);
        assert_eq!(run(&[version.clone(), status(2)]).unwrap(), Renamed::Missing);
        assert_eq!(run(&[version.clone(), status(4)]).unwrap(), Renamed::Refused(4));
        assert_eq!(run(&[packet(VERSION, &[&3u32.to_be_bytes()])]).unwrap(), Renamed::Unknown);
        assert!(run(std::slice::from_ref(&version)).is_err() && run(&[status(0)]).is_err());
        assert!(run(&[version, vec![0xff; 9]]).is_err(), "too long");
    }
}
