//! A broker of our own, and the two domains of a measurement.

use super::front::FrontOptions;
use super::{BackOptions, Disk};
use anyhow::{Context as _, Result, ensure};
use ringfence_hosted::admin::{Client, DomainKind, NewDisk, NewDomain, RestartPolicy};
use ringfence_hosted::broker::{Broker, Quotas};
use ringfence_hosted::{Cache, ImageFormat, ImageSpec, RunDir};
use serde::de::DeserializeOwned;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A broker; dropping it ends its domains.
pub struct Host {
    dir: TempDir,
    client: Client,
    broker: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

/// A domain that says one thing when it ends.
pub struct Domain {
    /// Ends it when it ends.
    input: UnixStream,
    output: UnixStream,
}

impl Domain {
    /// Its next line.
    pub fn line(&self) -> Result<String> {
        let mut line = String::new();
        BufReader::new(&self.output).read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "it ended without a word");
        Ok(line)
    }

    /// What it says when it ends by itself.
    pub fn say<T: DeserializeOwned>(mut self) -> Result<T> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        serde_json::from_str(text.trim()).with_context(|| format!("it said {text:?}"))
    }

    /// Tells it to end, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        self.input.shutdown(std::net::Shutdown::Both)?;
        self.output.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    /// What it says when it is told to end.
    pub fn stop<T: DeserializeOwned>(self) -> Result<T> {
        self.input.shutdown(std::net::Shutdown::Both)?;
        self.say()
    }
}

impl Host {
    /// Starts a broker.
    pub fn start() -> Result<Self> {
        let dir = crate::directory()?;
        let run = RunDir::resolve(Some(&dir.path().join("run")))?;
        let mut broker = Broker::with_program(run.clone(), std::env::current_exe()?)?;
        let mut quotas = Quotas::DEFAULT;
        // By Xen's a driver domain has room for fifty disks.
        for (name, value) in [("nodes", 100_000), ("watches", 4000), ("memory", 64 << 20)] {
            ensure!(quotas.set(name, value), "no quota {name}");
        }
        broker.set_quotas(quotas);
        let broker = Some(std::thread::spawn(move || broker.run()));
        let client = Client::connect(&run)?;
        Ok(Self {
            dir,
            client,
            broker,
        })
    }

    fn domain(
        &self,
        name: &str,
        kind: DomainKind,
        argv: &[String],
        restart: RestartPolicy,
    ) -> Result<Domain> {
        let domain = NewDomain {
            name: name.to_owned(),
            kind,
            argv: argv.iter().map(Into::into).collect(),
            env: Vec::new(),
            restart,
            destroy_on_exit: true,
        };
        let (input, its_input) = UnixStream::pair()?;
        let (output, its_output) = UnixStream::pair()?;
        let error = std::io::stderr();
        self.client.create_domain(
            domain,
            [its_input.as_fd(), its_output.as_fd(), error.as_fd()],
        )?;
        Ok(Domain { input, output })
    }

    /// The driver domain.
    pub fn back(&self, options: BackOptions, restart: RestartPolicy) -> Result<Domain> {
        let mut argv = vec![
            "back".to_owned(),
            format!("--waiting={}", options.waiting.word()),
            format!("--placement={}", options.placement.word()),
        ];
        argv.push(format!("--disk={}", options.disk.word()));
        argv.extend(options.unjournaled.then(|| "--unjournaled".to_owned()));
        self.domain("back", DomainKind::DriverDomain, &argv, restart)
    }

    /// A guest.
    pub fn front(&self, name: &str, options: &FrontOptions) -> Result<Domain> {
        let mut argv = options.arguments();
        argv.push(format!(
            "--run-dir={}",
            self.dir.path().join("run").display()
        ));
        self.domain(name, DomainKind::Guest, &argv, RestartPolicy::Never)
    }

    /// The process of a domain.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let domains = self.client.domains()?;
        let domain = domains.into_iter().find(|domain| domain.name == name);
        domain
            .and_then(|domain| domain.pid)
            .with_context(|| format!("{name} has no process"))
    }

    /// An image with nothing in it.
    pub fn image(&self, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.path().join("image");
        std::fs::File::create(&path)?.set_len(bytes)?;
        Ok(path.canonicalize()?)
    }

    /// Gives a guest a disk.
    pub fn attach(
        &self,
        guest: &str,
        disk: Disk,
        image: &Path,
        read_only: bool,
        vdev: u32,
    ) -> Result<()> {
        let cache = Cache::Direct;
        let format = match disk {
            Disk::Null | Disk::File => ImageFormat::Raw,
            Disk::Qcow2 => ImageFormat::Qcow2,
        };
        self.client.attach_disk(NewDisk {
            guest: guest.into(),
            backend: "back".into(),
            image: ImageSpec {
                cache,
                format,
                ..ImageSpec::raw(image, read_only)
            },
            vdev,
            dev: format!("xvd-{vdev}"),
            cdrom: false,
            discard: true,
        })?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.client.shutdown();
        let _ = self.broker.take().map(std::thread::JoinHandle::join);
    }
}
