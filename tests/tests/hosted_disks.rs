//! Attaching and detaching as the toolstack's part, and the store as the unmodified tools see it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringfence_core::store::{Perm, Store as _, StoreError, StoreExt as _, Tx};
use ringfence_hosted::admin::{AdminError, ClientError, DomainKind, NewDisk};
use ringfence_hosted::{HostedStore, ImageSpec, StoreSocket};
use ringfence_tests::hosted::{Host, Peer};

const VDEV: u32 = 51712;

struct Rig {
    host: Host,
    guest: Peer,
    blk: Peer,
    path: String,
}

fn rig() -> Rig {
    let host = Host::start(Path::new(env!("CARGO_BIN_EXE_hosted_peer")));
    let guest = host.peer("guest", DomainKind::Guest);
    let blk = host.peer("blk0", DomainKind::DriverDomain);
    let path = format!(
        "/local/domain/{}/backend/vbd/{}/{VDEV}",
        blk.domid, guest.domid
    );
    std::fs::File::create(host.path("disk.img"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    Rig {
        host,
        guest,
        blk,
        path,
    }
}

impl Rig {
    fn disk(&self) -> NewDisk {
        let target = self.host.path("disk.img");
        NewDisk {
            guest: "guest".into(),
            backend: "blk0".into(),
            image: ImageSpec::raw(target, true),
            vdev: VDEV,
            dev: "xvda".into(),
            cdrom: false,
            discard: true,
        }
    }

    fn dom0(&self) -> HostedStore {
        HostedStore::new(StoreSocket::connect(&self.host.run_dir().xenstored()).unwrap())
    }

    /// Waits until the backend's state is `state`, as a backend does.
    fn wait_for(&mut self, state: u32) {
        self.blk.store.watch(&self.path, "t").unwrap();
        while self.blk.store.read_state(Tx::NONE, &self.path) != Ok(state) {
            self.blk.store.wait(Some(Duration::from_secs(10))).unwrap();
            while self.blk.store.next_watch().unwrap().is_some() {}
        }
        self.blk.store.unwatch(&self.path, "t").unwrap();
    }

    /// Attaches with a backend that does `then` when it finds the disk.
    fn attach(&mut self, then: impl FnOnce(&mut Self)) -> Result<(), ClientError> {
        let (client, disk) = (self.host.client(), self.disk());
        let attached = std::thread::spawn(move || client.attach_disk(disk));
        self.wait_for(1);
        then(self);
        attached.join().unwrap()
    }
}

#[test]
fn the_nodes_are_those_of_a_toolstack() {
    let mut rig = rig();
    rig.attach(|rig| {
        rig.blk
            .store
            .write_u32(Tx::NONE, &rig.path, "state", 4)
            .unwrap()
    })
    .unwrap();
    let (guest, blk) = (rig.guest.domid, rig.blk.domid);
    let frontend = format!("/local/domain/{guest}/device/vbd/{VDEV}");
    let mut dom0 = rig.dom0();
    let mut buf = [0; 256];
    for (dir, key, value) in [
        (&rig.path, "frontend", frontend.as_str()),
        (&rig.path, "frontend-id", &guest.to_string()),
        (&rig.path, "online", "1"),
        (&rig.path, "mode", "r"),
        (&rig.path, "dev", "xvda"),
        (&rig.path, "hotplug-status", "connected"),
        (&frontend, "backend", &rig.path),
        (&frontend, "backend-id", &blk.to_string()),
        (&frontend, "virtual-device", "51712"),
        (&frontend, "device-type", "disk"),
        (&frontend, "state", "1"),
    ] {
        let read = dom0
            .read(Tx::NONE, &format!("{dir}/{key}"), &mut buf)
            .unwrap();
        assert_eq!(read, value.as_bytes(), "{dir}/{key}");
    }
    let of = |dom0: &mut HostedStore, path: &str| dom0.get_perms(Tx::NONE, path).unwrap();
    assert_eq!(
        of(&mut dom0, &frontend)[..],
        [Perm::owner(guest), Perm::read(blk)]
    );
    assert_eq!(
        of(&mut dom0, &format!("{}/state", rig.path))[..],
        [Perm::owner(blk), Perm::read(guest)]
    );
    let disks = rig.host.client().disks().unwrap();
    assert_eq!(
        (disks.len(), disks[0].backend_state, disks[0].vdev),
        (1, 4, VDEV)
    );
    match rig.host.client().attach_disk(rig.disk()) {
        Err(ClientError::Refused(AdminError::DiskExists { dev, .. })) => assert_eq!(dev, "xvda"),
        other => panic!("{other:?}"),
    }

    // Detaching: the backend is told, and the nodes go when it has closed.
    let client = rig.host.client();
    let detached = std::thread::spawn(move || client.detach_disk("guest", VDEV));
    rig.wait_for(5);
    assert_eq!(
        dom0.read(Tx::NONE, &format!("{}/online", rig.path), &mut buf)
            .unwrap(),
        b"0"
    );
    rig.blk
        .store
        .write_u32(Tx::NONE, &rig.path, "state", 6)
        .unwrap();
    detached.join().unwrap().unwrap();
    for path in [&rig.path, &frontend] {
        assert_eq!(
            dom0.read(Tx::NONE, path, &mut buf).unwrap_err(),
            StoreError::Missing
        );
    }
    assert_eq!(rig.host.client().disks().unwrap(), []);
}

#[test]
fn a_failed_attach_answers_with_the_backends_words_and_leaves_nothing() {
    let mut rig = rig();
    let failed = rig.attach(|rig| {
        let (guest, path) = (rig.guest.domid, rig.path.clone());
        let node = format!("error/backend/vbd/{guest}/{VDEV}/error");
        rig.blk
            .store
            .write(Tx::NONE, &node, b"22 no such thing")
            .unwrap();
        rig.blk
            .store
            .write_u32(Tx::NONE, &path, "state", 5)
            .unwrap();
        rig.blk
            .store
            .write_u32(Tx::NONE, &path, "state", 6)
            .unwrap();
    });
    match failed {
        Err(ClientError::Refused(AdminError::Backend { text, .. })) => {
            assert_eq!(text, "22 no such thing");
        }
        other => panic!("{other:?}"),
    }
    let missing = rig
        .dom0()
        .read(Tx::NONE, &rig.path, &mut [0; 8])
        .unwrap_err();
    assert_eq!(missing, StoreError::Missing);
    // The next try starts afresh.
    rig.attach(|rig| {
        rig.blk
            .store
            .write_u32(Tx::NONE, &rig.path, "state", 4)
            .unwrap()
    })
    .unwrap();
}

#[test]
fn an_offer_is_enough_while_the_guest_does_not_look() {
    let mut rig = rig();
    rig.attach(|rig| {
        rig.blk
            .store
            .write_u32(Tx::NONE, &rig.path, "state", 2)
            .unwrap()
    })
    .unwrap();
    assert_eq!(rig.host.client().disks().unwrap()[0].backend_state, 2);
}

#[test]
fn disks_go_with_the_domain_that_serves_them() {
    let mut rig = rig();
    rig.attach(|rig| {
        rig.blk
            .store
            .write_u32(Tx::NONE, &rig.path, "state", 4)
            .unwrap()
    })
    .unwrap();
    rig.host.client().destroy_domain("blk0").unwrap();
    assert_eq!(rig.host.client().disks().unwrap(), []);
    let frontend = format!("device/vbd/{VDEV}");
    let gone = rig
        .guest
        .store
        .read(Tx::NONE, &frontend, &mut [0; 8])
        .unwrap_err();
    assert!(
        matches!(gone, StoreError::Missing | StoreError::Denied),
        "{gone}"
    );
}

#[test]
fn the_unmodified_tools_work() {
    let rig = rig();
    let run = |tool: &str, arguments: &[&str]| {
        let socket = rig.host.run_dir().xenstored();
        let mut command = Command::new(tool);
        command
            .args(arguments)
            .env("XENSTORED_PATH", socket)
            .stdin(Stdio::null());
        command.output()
    };
    let Ok(output) = run("xenstore-read", &["/local/domain/1/name"]) else {
        println!("SKIP xenstore-read: not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "guest\n");
    assert!(
        run("xenstore-write", &["/tool/x", "1"])
            .unwrap()
            .status
            .success()
    );
    let listed = run("xenstore-ls", &["/local/domain/2"]).unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("name = \"blk0\"") && listed.contains("backend = \"\""),
        "{listed}"
    );
}
