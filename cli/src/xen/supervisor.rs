//! The parent of a driver domain's process on Xen: opens what the process may use, and starts it again when it dies.
//!
//! It maps no page of any guest and serves no request. When the process dies, the states in the store stay as they are; Xen
//! takes the mappings away and turns the guests' ports back to unbound, and the next process goes on with both.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ringfence_core::store::Store;
use ringfence_linux::DeviceFiles;
use ringfence_process::child::{Child, Exit};
use ringfence_process::packet::{self, Received};
use ringfence_process::restart::{RestartPolicy, Restarts};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::supervisor_files::{Files, Given};
use super::supervisor_link::{Answer, Ask, Identity};
use super::supervisor_notify::{NOTIFY_SOCKET, notify};
use super::supervisor_statistics::{Published, Status};
use crate::signals::Reload;
use crate::upgrade;

#[derive(Debug)]
struct Process {
    child: Child,
    link: OwnedFd,
    /// The process closed its end, or says what makes no sense.
    deaf: bool,
}

/// A driver domain's parent.
#[derive(Debug)]
pub(super) struct Supervisor<S, F> {
    identity: Identity,
    files: Files<S, F>,
    program: PathBuf,
    arguments: Vec<String>,
    restarts: Restarts,
    process: Option<Process>,
    lock: Option<OwnedFd>,
    published: Option<Published>,
    /// What is to be gone on with, by another supervisor, when the process has ended.
    next: Option<PathBuf>,
}

/// What a supervisor's life came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The process ended so, and no other is to follow.
    Exit(Exit),
    /// The process has finished: the supervisor of this program goes on.
    Next(PathBuf),
}

impl<S: Store, F: DeviceFiles> Supervisor<S, F> {
    /// Of a process that runs `program` with `arguments`.
    pub(super) fn new(
        identity: Identity,
        files: Files<S, F>,
        program: PathBuf,
        arguments: Vec<String>,
        policy: RestartPolicy,
    ) -> Self {
        Self {
            identity,
            files,
            program,
            arguments,
            restarts: Restarts::new(policy, Instant::now()),
            process: None,
            lock: None,
            next: None,
            published: None,
        }
    }

    /// Keeps `lock`, and has the process keep it as well, which may outlive us.
    pub(super) fn with_lock(self, lock: OwnedFd) -> Self {
        let lock = Some(lock);
        Self { lock, ..self }
    }

    /// Shows what the process counts.
    pub(super) fn with_statistics(self, published: Published) -> Self {
        let published = Some(published);
        Self { published, ..self }
    }

    /// Starts the process and watches over it until it ended for good: by itself, or since `stop` became readable, or since
    /// `reload` did and the program at `on_disk` knows what it left.
    ///
    /// # Errors
    /// The first process cannot be started, or the system refuses to poll.
    pub(super) fn run(
        self,
        stop: BorrowedFd<'_>,
        reload: &Reload,
        on_disk: &Path,
    ) -> io::Result<Ended> {
        let ended = self.watch_over(stop, reload, on_disk)?;
        Ok(match ended {
            // Who follows would never hear of a signal that we had.
            Ended::Next(_) if is_readable(stop)? => Ended::Exit(Exit::Code(0)),
            ended => ended,
        })
    }

    fn watch_over(
        mut self,
        stop: BorrowedFd<'_>,
        reload: &Reload,
        on_disk: &Path,
    ) -> io::Result<Ended> {
        self.start()?;
        let mut stopping = false;
        loop {
            let ready = self.poll(stop, reload.as_fd(), stopping)?;
            if ready.stop {
                stopping = true;
                self.next = None;
                notify("STOPPING=1");
                self.restarts.give_up();
                if !self.ask_to_end() {
                    // It died, and is not going to be started again.
                    return Ok(Ended::Exit(Exit::Code(0)));
                }
            }
            if ready.reload && !stopping {
                reload.take();
                if let Some(next) = self.upgrade(on_disk) {
                    return Ok(Ended::Next(next));
                }
            }
            if ready.asked {
                self.take();
            }
            if ready.watched
                && let Some(published) = &self.published
            {
                published.answer(&Status {
                    domid: self.identity.domid,
                    name: self.identity.name.clone(),
                    pid: self.process.as_ref().map(|it| it.child.pid()),
                    restarts: self.restarts.count(),
                });
            }
            if ready.ended
                && let Some(ended) = self.ended()
            {
                return Ok(match ended {
                    // It was told to end before it was ready for that.
                    Ended::Exit(Exit::Signal(SIGTERM)) if stopping => Ended::Exit(Exit::Code(0)),
                    ended => ended,
                });
            }
            if self.restarts.due().is_some_and(|at| at <= Instant::now()) {
                self.restart();
            }
        }
    }

    /// Asks the process to finish. `false` if there is none.
    fn ask_to_end(&self) -> bool {
        // Fails only if it has ended meanwhile.
        let ask = |process: &Process| drop(process.child.signal(SIGTERM));
        self.process.as_ref().map(ask).is_some()
    }

    /// Prepares for another program. Gives it if nothing has to finish before.
    fn upgrade(&mut self, on_disk: &Path) -> Option<PathBuf> {
        if let Err(error) = upgrade::check(on_disk) {
            tracing::error!(program = %on_disk.display(), %error, "upgrade refused");
            return None;
        }
        if self.ask_to_end() {
            self.next = Some(on_disk.to_owned());
            return None;
        }
        Some(on_disk.to_owned())
    }

    fn start(&mut self) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_remove(NOTIFY_SOCKET);
        let (child, link) = Child::spawn(command)?;
        tracing::info!(pid = child.pid(), "process started");
        self.process = Some(Process {
            child,
            link,
            deaf: false,
        });
        self.restarts.started(Instant::now());
        Ok(())
    }

    fn restart(&mut self) {
        if let Err(error) = self.start() {
            tracing::error!(%error, "cannot start again");
            self.restarts.ended(Instant::now(), true);
        }
    }

    fn poll(
        &self,
        stop: BorrowedFd<'_>,
        reload: BorrowedFd<'_>,
        stopping: bool,
    ) -> io::Result<Ready> {
        let due = self.restarts.due();
        let left = due.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let listens = |it: &&Process| !it.deaf;
        let mut fds = Vec::with_capacity(4);
        let mut add = |fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            fds.len().saturating_sub(1)
        };
        let of_stop = (!stopping).then(|| add(stop));
        let of_reload = (!stopping && self.next.is_none()).then(|| add(reload));
        let of_end = self.process.as_ref().map(|it| add(it.child.as_fd()));
        let process = self.process.as_ref().filter(listens);
        let of_link = process.map(|it| add(it.link.as_fd()));
        let of_watcher = self.published.as_ref().map(|it| add(it.as_fd()));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let is = |at: Option<usize>| {
            at.and_then(|at| fds.get(at))
                .is_some_and(|fd| !fd.revents().is_empty())
        };
        Ok(Ready {
            stop: is(of_stop),
            reload: is(of_reload),
            ended: is(of_end),
            asked: is(of_link),
            watched: is(of_watcher),
        })
    }

    /// Takes one question and answers it.
    fn take(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let ask = match packet::recv(process.link.as_fd(), RecvFlags::DONTWAIT) {
            Ok(Received::Message(ask, _)) => ask,
            Ok(Received::Nothing) => return,
            // Its death is a matter of its pidfd.
            Ok(Received::Closed) | Err(_) => {
                process.deaf = true;
                return;
            }
            Ok(Received::Garbage) => {
                tracing::warn!("message that makes no sense: not listening any more");
                process.deaf = true;
                return;
            }
        };
        let given = match ask {
            Ask::Hello => {
                let lock = self.lock.as_ref().and_then(|lock| lock.try_clone().ok());
                let lock = lock.into_iter().collect();
                (Answer::Welcome(self.identity.clone()), lock)
            }
            Ask::Device(device) => self.files.device(device),
            Ask::OpenImage { backend_dir } => self.files.image(&backend_dir),
            Ask::Journal { backend_dir } => self.files.journal(&backend_dir),
            Ask::Statistics => given_statistics(self.published.as_ref()),
            Ask::Gone { backend_dir } => {
                self.files.gone(&backend_dir);
                return;
            }
            Ask::Ready => {
                notify("READY=1");
                return;
            }
        };
        process.answer(given);
    }

    /// The pidfd says that the process ended; gives how if there is none to follow.
    fn ended(&mut self) -> Option<Ended> {
        let exit = self.process.as_mut()?.child.exit()?;
        self.process = None;
        self.files.process_died(exit);
        let failed = exit != Exit::Code(0);
        match self.next.take() {
            Some(next) if !failed => return Some(Ended::Next(next)),
            // What it was doing goes on for a while, and we are who knows how to wait for that.
            Some(_) => tracing::error!(
                ?exit,
                "upgrade failed: the process died before it had finished"
            ),
            None => {}
        }
        match self.restarts.ended(Instant::now(), failed) {
            Some(pause) => {
                tracing::warn!(?exit, ?pause, "process ended, to be started again");
                None
            }
            None => {
                tracing::info!(?exit, "process ended");
                Some(Ended::Exit(exit))
            }
        }
    }
}

fn given_statistics(published: Option<&Published>) -> Given {
    let memory =
        published.map_or_else(|| Err(io::ErrorKind::Unsupported.into()), Published::memory);
    match memory {
        Ok(memory) => (Answer::Statistics, vec![memory]),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let words = error.to_string();
            (Answer::Refused { words, errno }, Vec::new())
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let now = Timespec::default();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    // The signal that is looked for may come just now.
    let found = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))?;
    Ok(found > 0)
}

/// What a poll found.
#[derive(Clone, Copy, Default)]
struct Ready {
    stop: bool,
    reload: bool,
    ended: bool,
    asked: bool,
    watched: bool,
}

const SIGTERM: i32 = signal_hook::consts::SIGTERM;

impl Process {
    fn answer(&mut self, (answer, fds): Given) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        // One answer per question fits any socket: a process that asks without listening loses them.
        if packet::send(self.link.as_fd(), &answer, &fds, SendFlags::DONTWAIT).is_err() {
            self.deaf = true;
        }
    }
}

#[cfg(test)]
mod tests;
