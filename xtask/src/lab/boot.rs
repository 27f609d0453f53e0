//! One boot: QEMU runs, dom0 reports on the second serial port which scenario begins and how it ended.

use super::layout::Layout;
use super::qemu::{self, Ports};
use super::scenario::{Machine, Scenario};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// From QEMU's start to dom0's first report.
const TO_BOOT: Duration = Duration::from_secs(240);

/// What dom0 has on top of a scenario's own limit: it ends it, cleans up, and looks for what is left.
const TO_CLEAN_UP: Duration = Duration::from_secs(90);

/// Lines of each console that a failure shows.
const TAIL: usize = 80;

/// How a scenario went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One line of the second serial port.
#[derive(PartialEq, Eq, Debug)]
enum Report {
    Ready,
    Begin(String),
    Why(String),
    /// `WHAT: VALUE`, measured by the scenario that runs.
    Figure(String),
    End(String, i32),
    Skip(String, String),
    Done,
    /// A guest's console, or anything else.
    Other,
}

impl Report {
    fn parse(line: &str) -> Self {
        let Some(words) = line.strip_prefix("LAB ") else {
            return Self::Other;
        };
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        let (name, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "READY" => Self::Ready,
            "BEGIN" => Self::Begin(name.to_owned()),
            "WHY" => Self::Why(rest.to_owned()),
            "FIGURE" => Self::Figure(rest.to_owned()),
            "END" => more
                .parse()
                .map_or(Self::Other, |status| Self::End(name.to_owned(), status)),
            "SKIP" => Self::Skip(name.to_owned(), more.to_owned()),
            "DONE" => Self::Done,
            _ => Self::Other,
        }
    }
}

enum Line {
    Console(String),
    Report(String),
}

/// What a boot has shown.
pub(crate) struct Boot {
    child: Child,
    lines: Receiver<Line>,
    start: Instant,
    log: File,
    patience: u32,
    console: Vec<String>,
    guests: Vec<String>,
}

impl Boot {
    /// Starts the machine; every line of its consoles goes to `log`, stamped with seconds since now.
    pub(crate) fn start(
        layout: &Layout,
        machine: &Machine,
        initrd: &Path,
        log: &Path,
        patience: u32,
    ) -> Result<Self> {
        let mut child = qemu::command(layout, machine, initrd, &Ports::Split)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run QEMU")?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("no pipe")?;
        let stderr = child.stderr.take().context("no pipe")?;
        read_lines(stdout, sender.clone(), Line::Report);
        read_lines(stderr, sender, Line::Console);
        Ok(Self {
            child,
            lines,
            start: Instant::now(),
            log: File::create(log).with_context(|| format!("cannot write {}", log.display()))?,
            patience,
            console: Vec::new(),
            guests: Vec::new(),
        })
    }

    /// Follows it to the end; `ended` hears of each scenario in turn, with its time and the figures that it measured. Whatever
    /// is not named there did not run.
    pub(crate) fn follow(
        mut self,
        scenarios: &[Scenario],
        mut ended: impl FnMut(&str, Verdict, Duration, &[String]),
    ) -> Result<()> {
        let mut current: Option<(String, Instant)> = None;
        let mut why = Vec::new();
        let mut figures = Vec::new();
        let clean_up = TO_CLEAN_UP * self.patience;
        let mut deadline = self.start + TO_BOOT * self.patience;
        let broken = loop {
            let Some(report) = self.next(deadline)? else {
                break if Instant::now() >= deadline {
                    "timed out"
                } else {
                    "the machine went off"
                };
            };
            let now = Instant::now();
            match report {
                Report::Ready => deadline = now + clean_up,
                Report::Begin(name) => {
                    let limit = scenarios.iter().find(|s| s.name == name).map(|s| s.limit);
                    deadline = now + limit.unwrap_or_default() + clean_up;
                    why.clear();
                    figures.clear();
                    current = Some((name, now));
                }
                Report::Why(text) => why.push(text),
                Report::Figure(text) => figures.push(text),
                Report::End(name, status) => {
                    let began = current.take().map_or(now, |(_, began)| began);
                    let verdict = if status == 0 && why.is_empty() {
                        Verdict::Passed
                    } else {
                        self.show_tails()?;
                        why.insert(0, format!("exit status {status}"));
                        Verdict::Failed(why.join("; "))
                    };
                    ended(&name, verdict, now - began, &figures);
                    deadline = now + clean_up;
                }
                Report::Skip(name, why) => {
                    ended(&name, Verdict::Skipped(why), Duration::ZERO, &[]);
                }
                Report::Done => return self.stop(),
                Report::Other => {}
            }
        };
        self.show_tails()?;
        let text = format!("{broken} after {:.0} s", self.start.elapsed().as_secs_f32());
        writeln!(self.log, "{text}")?;
        let now = Instant::now();
        match current {
            Some((name, began)) => ended(&name, Verdict::Failed(text), now - began, &[]),
            // A machine that does not come up will not the next time either.
            None => {
                for scenario in scenarios {
                    ended(
                        &scenario.name,
                        Verdict::Failed(text.clone()),
                        Duration::ZERO,
                        &[],
                    );
                }
            }
        }
        self.stop()
    }

    /// The next report; `None` at the deadline or when the machine is off.
    fn next(&mut self, deadline: Instant) -> Result<Option<Report>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
        };
        let seconds = self.start.elapsed().as_secs_f32();
        match line {
            Line::Console(text) if text.contains("TCG doesn't support requested feature") => {
                Ok(Some(Report::Other))
            }
            Line::Console(text) => {
                writeln!(self.log, "[{seconds:7.2}] {text}")?;
                self.console.push(text);
                Ok(Some(Report::Other))
            }
            Line::Report(text) => {
                writeln!(self.log, "[{seconds:7.2}] # {text}")?;
                let report = Report::parse(&text);
                self.guests.push(text);
                Ok(Some(report))
            }
        }
    }

    fn show_tails(&mut self) -> Result<()> {
        // Xen and dom0 first, then each guest.
        println!("---- console of Xen and dom0");
        for line in &self.console[self.console.len().saturating_sub(TAIL)..] {
            println!("{line}");
        }
        let mut guests: Vec<&str> = self.guests.iter().filter_map(|l| guest_of(l)).collect();
        guests.sort_unstable();
        guests.dedup();
        for guest in guests {
            println!("---- console of {guest}");
            let lines: Vec<&String> = self
                .guests
                .iter()
                .filter(|l| guest_of(l) == Some(guest))
                .collect();
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                println!("{line}");
            }
        }
        println!("----");
        self.console.clear();
        self.guests.clear();
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// `NAME| line` is from the console of the guest NAME.
fn guest_of(line: &str) -> Option<&str> {
    let (name, _) = line.split_once("| ")?;
    (!name.is_empty() && !name.contains(' ')).then_some(name)
}

fn read_lines(pipe: impl Read + Send + 'static, to: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            if to
                .send(kind(text.trim_end_matches(['\r', '\n']).replace('\r', "")))
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dom0_reports_in_lines() {
        assert_eq!(Report::parse("LAB READY"), Report::Ready);
        assert_eq!(Report::parse("LAB BEGIN a"), Report::Begin("a".into()));
        assert_eq!(Report::parse("LAB END a 1 3.5"), Report::Other);
        assert_eq!(Report::parse("LAB END a 124"), Report::End("a".into(), 124));
        assert_eq!(
            Report::parse("LAB SKIP a no such module"),
            Report::Skip("a".into(), "no such module".into())
        );
        assert_eq!(
            Report::parse("LAB WHY a leak"),
            Report::Why("a leak".into())
        );
        assert_eq!(
            Report::parse("LAB FIGURE bytes: 12"),
            Report::Figure("bytes: 12".into())
        );
        assert_eq!(Report::parse("g1| LAB DONE"), Report::Other);
    }

    #[test]
    fn a_guest_is_known_by_its_mark() {
        assert_eq!(guest_of("g1| boot"), Some("g1"));
        assert_eq!(guest_of("LAB WHY a| b"), None);
        assert_eq!(guest_of("nothing"), None);
    }
}
