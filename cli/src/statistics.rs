//! What driver domains count, wherever they are: the place to look at for whoever shows it.

use anyhow::{Context, Result};
use ringfence_blkback::service::{Report, ReportError};
use ringfence_hosted::RunDir;
use ringfence_hosted::admin::{AdminError, Client, ClientError, DomainKind};
use ringfence_process::records::Record;

use crate::args::Platform;
use crate::xen::supervisor_statistics as statistics;

/// A driver domain.
#[derive(Debug)]
#[non_exhaustive]
pub struct Source {
    /// Its number.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// How often a process was started again since the first.
    pub restarts: u32,
    /// What it counts, live: the same for all its processes. `None` while no process has begun to.
    counted: Option<Record>,
}

impl Source {
    /// Reads what it has counted up to now; asks nobody, and may be called again and again. `None` while nothing is counted.
    pub fn report(&self) -> Option<Report> {
        let report: Result<Report, ReportError> = Report::read(self.counted.as_ref()?);
        report.ok()
    }
}

/// The driver domains of a host: of the broker of this run directory, or on Xen the one whose supervisor uses it. Look again
/// for what comes and goes, processes among it.
///
/// # Errors
/// There is no broker, or no supervisor.
pub fn sources(platform: Platform, run_dir: &RunDir) -> Result<Vec<Source>> {
    match platform {
        Platform::Hosted => hosted(run_dir),
        Platform::Xen => {
            let (status, counted) = statistics::look(run_dir.path()).with_context(|| {
                let dir = run_dir.path().display();
                format!("no driver domain serves in {dir}")
            })?;
            Ok(vec![Source {
                domid: status.domid,
                name: status.name,
                pid: status.pid,
                restarts: status.restarts,
                counted: Some(counted),
            }])
        }
    }
}

fn hosted(run_dir: &RunDir) -> Result<Vec<Source>> {
    let client = Client::connect(run_dir)?;
    let mut sources = Vec::new();
    for domain in client.domains()? {
        if domain.kind != DomainKind::DriverDomain {
            continue;
        }
        let counted = match client.statistics(&domain.domid.to_string()) {
            Ok(counted) => Some(counted),
            Err(ClientError::Refused(AdminError::NoStatistics(_))) => None,
            // It went since the list was made.
            Err(ClientError::Refused(AdminError::NoDomain(_))) => continue,
            Err(error) => return Err(error.into()),
        };
        sources.push(Source {
            domid: domain.domid,
            name: domain.name,
            pid: domain.pid,
            restarts: domain.restarts,
            counted,
        });
    }
    Ok(sources)
}
