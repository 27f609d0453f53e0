//! `lab-peer tables` and `lab-peer block`.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use ringfence_core::DomId;
use ringfence_core::platform::Granted as _;
use ringfence_core::store::{Store as _, StoreExt as _, Tx, domain_path};
use ringfence_lab::hostile::block::{Scene, attacks};
use ringfence_lab::hostile::frontend::{Frontend, Host};
use ringfence_lab::hostile::tables;
use ringfence_lab::{Line, Remote};
use ringfence_linux::{LinuxStore, open_store};
use ringfence_tests::blkback_rig::write;

use crate::Three;
use crate::checks::{Tally, run as run_checks};
use crate::fleet::connect;

/// Attacks on grant tables and event channels.
pub(crate) fn on_tables(domains: Three, keep: bool) -> ExitCode {
    let mut attacks = tables::attacks();
    attacks.retain(|(name, _)| !(keep && *name == tables::DESTROYED));
    run_checks("ATTACK", domains, &attacks, tables::DESTROYED)
}

/// dom0, and a backend that runs by itself.
struct Dom0(LinuxStore);

impl Host for Dom0 {
    type Store = LinuxStore;

    fn store(&mut self) -> &mut LinuxStore {
        &mut self.0
    }

    fn serve(&mut self) {}

    fn wait(&mut self) {
        // The state is read again whatever comes: an error here shows there.
        let _ = self.0.wait(Some(Duration::from_millis(500)));
        while let Ok(Some(_)) = self.0.next_watch() {}
    }
}

/// The frontend of a disk, in the process of the agent at the other end of `line`.
fn frontend(line: Rc<Line>, back: DomId, vdev: u32) -> anyhow::Result<Frontend<Remote>> {
    let remote = Remote::new(line);
    let store = remote.open_store()?;
    Ok(Frontend::new(remote, store, back, vdev))
}

/// Attacks on the backend of a disk `vdev` that `attacker` has, while `bystander` uses one of the same number.
pub(crate) fn on_block(
    front: DomId,
    bystander: DomId,
    back: DomId,
    vdev: u32,
) -> anyhow::Result<ExitCode> {
    let mut store = open_store().context("no connection to XenStore")?;
    store.watch(&format!("{}/backend/vbd", domain_path(back)), "backend")?;
    let (line, incarnation) = connect(front, None);
    let attacker = frontend(line.clone(), back, vdev)?;
    let bystander = frontend(connect(bystander, None).0, back, vdev)?;
    let mut scene = Scene {
        attacker,
        bystander,
        host: Dom0(store),
        sectors: 0,
    };
    let mut tally = Tally::start();
    scene.connect();
    let dir = scene.attacker.back_dir.clone();
    scene.sectors = scene.host.store().read_u64(Tx::NONE, &dir, "sectors")?;
    for (name, attack) in attacks() {
        let held = tally.check("ATTACK", name, || {
            attack(&mut scene);
            scene.recovers();
        });
        // The next one begins with a connection.
        if !held && !tally.check("RECOVERY", name, || scene.recovers()) {
            break;
        }
    }
    tally.check(
        "ATTACK",
        "a process that dies while its disk is used",
        || {
            let gref = scene.attacker.page.grant_ref();
            let requests: Vec<_> = (0..24).map(|id| write(id, 8 * id, gref)).collect();
            scene.attacker.push(&requests);
            line.kill();
            scene.bystander.round_trip(&mut scene.host, 10);
            // Whatever it granted and opened is gone; its next process begins anew.
            let (line, _) = connect(front, Some(incarnation));
            scene.attacker = frontend(line, back, vdev).expect("a connection to XenStore");
            scene.recovers();
        },
    );
    scene.attacker.close(&mut scene.host);
    scene.bystander.close(&mut scene.host);
    Ok(tally.end("ATTACK"))
}
