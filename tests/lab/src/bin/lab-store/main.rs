//! Talks to XenStore by the wire, from a script, and writes down what is said: for comparing two daemons.
//!
//! `lab-store PATH` opens a connection to PATH, a Unix socket or `/dev/xen/xenbus`, for each name that the script on standard
//! input uses. A line is `NAME[:TX] WORD ARGUMENT...`; `\0`, `\n`, `\xHH`, `\s` (a space) and `\\` in arguments are replaced.
//!
//! - `A read /path` and so on: any word of [`OPS`], its arguments as NUL-terminated strings; the last one of `write` goes
//!   without NUL. `A raw NUMBER PAYLOAD` sends anything.
//! - `A start T`: a transaction, called T from here on; `A:T read /path` runs in it, `A:T end T` or `A:T end F` ends it.
//! - `A many COUNT WORD ARGUMENT...`: the same request again and again, `%` in arguments replaced by 0, 1 and so on, until one
//!   fails; says at which number. `A long LENGTH WORD PATH`: with a last argument of that many letters.
//! - `A close`: the connection is gone; the next use of the name opens another one.
//!
//! - `A list PATH`: all names below, in as many parts as it takes; how many, and the first and last.
//!
//! - `A hear COUNT`: waits for so many watch events. Over `/dev/xen/xenbus` they come when the kernel finds the time, and are
//!   only shown by this; elsewhere every event that came before an answer is a line before that.
//!
//! Every answer is a line. Names of children are shown sorted: their order is
//! the daemon's own. `lab-store PATH NUMBER` has that number for the word GUEST, and GUEST for the number in what it shows.

mod wire;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, stdin};

use wire::{Answer, Wire, shown, unescaped};

/// Words and numbers of `enum xsd_sockmsg_type`.
const OPS: &[(&str, u32)] = &[
    ("control", 0),
    ("directory", 1),
    ("read", 2),
    ("get_perms", 3),
    ("watch", 4),
    ("unwatch", 5),
    ("introduce", 8),
    ("release", 9),
    ("get_domain_path", 10),
    ("write", 11),
    ("mkdir", 12),
    ("rm", 13),
    ("set_perms", 14),
    ("is_domain_introduced", 17),
    ("resume", 18),
    ("set_target", 19),
    ("reset_watches", 21),
    ("directory_part", 22),
];

struct Talk {
    path: String,
    guest: Option<String>,
    wires: BTreeMap<String, Wire>,
    transactions: BTreeMap<String, u32>,
}

impl Talk {
    fn line(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        println!("> {line}");
        let line = match &self.guest {
            Some(guest) => line.replace("GUEST", guest),
            None => line.to_owned(),
        };
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let who = words.next().ok_or("who?")?;
        let word = words.next().ok_or("what?")?;
        let arguments: Vec<&str> = words.collect();
        let (name, tx) = match who.split_once(':') {
            Some((name, tx)) => (
                name,
                *self.transactions.get(tx).ok_or("which transaction?")?,
            ),
            None => (who, 0),
        };
        if word == "close" {
            self.wires.remove(name);
            return Ok(());
        }
        if !self.wires.contains_key(name) {
            self.wires.insert(name.to_owned(), Wire::open(&self.path)?);
        }
        let wire = self.wires.get_mut(name).ok_or("no wire")?;
        if let ("hear", [count]) = (word, arguments.as_slice()) {
            let events = wire.hear(count.parse()?)?;
            let say = Say(self.guest.as_deref());
            match events.len() {
                ..=20 => events
                    .iter()
                    .for_each(|event| println!("! {}", say.shown(event))),
                many => println!("! {many} events"),
            }
            return Ok(());
        }
        let say = Say(self.guest.as_deref());
        let mut ask = |op, payload: &[u8]| -> Result<Answer, Box<dyn Error>> {
            let (events, answer) = wire.ask(op, tx, payload)?;
            for event in events {
                println!("! {}", say.shown(&event));
            }
            Ok(answer)
        };
        match (word, arguments.as_slice()) {
            ("start", [tx]) => {
                let answer = ask(6, b"\0")?;
                match answer {
                    Ok(id) => {
                        let id = String::from_utf8(id)?.trim_end_matches('\0').parse()?;
                        self.transactions.insert((*tx).to_owned(), id);
                        println!("< started");
                    }
                    Err(error) => println!("< {error}"),
                }
            }
            ("end", [commit]) => say.answer(&ask(7, format!("{commit}\0").as_bytes())?),
            ("raw", [op, payload]) => say.answer(&ask(op.parse()?, &unescaped(payload)?)?),
            ("raw", [op]) => say.answer(&ask(op.parse()?, b"")?),
            ("long", [length, word, path]) => {
                let last = "x".repeat(length.parse()?);
                say.answer(&ask(number(word)?, &payload(word, &[path, &last])?)?);
            }
            ("many", [count, word, arguments @ ..]) => {
                let count: u32 = count.parse()?;
                for at in 0..count {
                    let of_this: Vec<_> = arguments
                        .iter()
                        .map(|argument| argument.replace('%', &at.to_string()))
                        .collect();
                    let of_this: Vec<&str> = of_this.iter().map(String::as_str).collect();
                    let (op, bytes) = if *word == "start" {
                        (6, b"\0".to_vec())
                    } else {
                        (number(word)?, payload(word, &of_this)?)
                    };
                    if let Err(error) = ask(op, &bytes)? {
                        println!("< {error} at {at}");
                        return Ok(());
                    }
                }
                println!("< all {count}");
            }
            ("list", [path]) => match list(path, &mut ask)? {
                Ok(names) => println!(
                    "< {} names from {} to {}",
                    names.len(),
                    names.first().map_or("", String::as_str),
                    names.last().map_or("", String::as_str)
                ),
                Err(error) => println!("< {error}"),
            },
            ("directory", _) => {
                let answer = ask(number(word)?, &payload(word, &arguments)?)?;
                say.answer(&answer.map(|names| {
                    let mut names: Vec<_> = names.split_inclusive(|byte| *byte == 0).collect();
                    names.sort_unstable();
                    names.concat()
                }));
            }
            _ => say.answer(&ask(number(word)?, &payload(word, &arguments)?)?),
        }
        Ok(())
    }
}

fn number(word: &str) -> Result<u32, Box<dyn Error>> {
    let found = OPS.iter().find(|(name, _)| *name == word);
    Ok(found.ok_or_else(|| format!("no operation {word}"))?.1)
}

/// The arguments as the operation wants them.
fn payload(word: &str, arguments: &[&str]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    for argument in arguments {
        bytes.extend(unescaped(argument)?);
        bytes.push(0);
    }
    if arguments.is_empty() {
        bytes.push(0);
    }
    if word == "write" {
        // `write /path` is a write of nothing: only the path has its NUL.
        if arguments.len() > 1 {
            bytes.pop();
        }
    }
    Ok(bytes)
}

type Ask<'a> = &'a mut dyn FnMut(u32, &[u8]) -> Result<Answer, Box<dyn Error>>;

/// All names of children, sorted.
fn list(path: &str, ask: Ask<'_>) -> Result<Result<Vec<String>, String>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    loop {
        let offset = bytes.len().to_string();
        let part = match ask(22, &payload("directory_part", &[path, &offset])?)? {
            Ok(part) => part,
            Err(error) => return Ok(Err(error)),
        };
        // The generation before the first NUL is a number of the daemon's own.
        let names = part.iter().position(|byte| *byte == 0).ok_or("no NUL")? + 1;
        bytes.extend_from_slice(part.get(names..).unwrap_or_default());
        if bytes.is_empty() || bytes == b"\0" || bytes.ends_with(b"\0\0") {
            break;
        }
    }
    let text = String::from_utf8(bytes)?;
    let names = text.split('\0').filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(Ok(names))
}

/// Shows what is the same in every run: the number of the guest is not.
struct Say<'a>(Option<&'a str>);

impl Say<'_> {
    fn shown(&self, bytes: &[u8]) -> String {
        let text = shown(bytes);
        let Some(guest) = self.0 else {
            return text;
        };
        // Only whole numbers: what follows is a NUL or a slash.
        let mut text = text.replace(&format!("/domain/{guest}/"), "/domain/GUEST/");
        for before in ["/domain/", "n", "r", "w", "b"] {
            text = text.replace(&format!("{before}{guest}\\0"), &format!("{before}GUEST\\0"));
        }
        text
    }

    fn answer(&self, answer: &Answer) {
        match answer {
            Ok(payload) => println!("< {}", self.shown(payload)),
            Err(error) => println!("< {error}"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: lab-store PATH [NUMBER] <SCRIPT")?;
    let mut talk = Talk {
        path,
        guest: arguments.next(),
        wires: BTreeMap::new(),
        transactions: BTreeMap::new(),
    };
    for line in stdin().lock().lines() {
        let line = line?;
        let line = line.trim();
        if line.starts_with('#') {
            println!("{line}");
        } else if !line.is_empty() {
            talk.line(line)
                .map_err(|error| format!("{line}: {error}"))?;
        }
    }
    Ok(())
}
