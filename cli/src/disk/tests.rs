use ringfence_hosted::{Cache, ImageFormat};

use super::{DiskAccess, DiskSpec};

fn parse(text: &str) -> DiskSpec {
    text.parse().expect(text)
}

fn error(text: &str) -> String {
    text.parse::<DiskSpec>().expect_err(text).to_string()
}

#[test]
fn xl_keys() {
    let disk = parse("format=raw,vdev=xvda,access=rw,backend=blk0,target=/path,with=comma");
    assert_eq!(disk.target, "/path,with=comma");
    assert_eq!((disk.vdev.get(), disk.vdev_name.as_str()), (51712, "xvda"));
    assert_eq!(disk.access, DiskAccess::ReadWrite);
    assert_eq!(disk.backend.as_deref(), Some("blk0"));
}

#[test]
fn xl_positions_may_be_empty() {
    let disk = parse("/img,,xvdb,ro");
    assert_eq!(
        (disk.target.as_str(), disk.vdev.get(), disk.access),
        ("/img", 51728, DiskAccess::ReadOnly)
    );
    assert_eq!(parse("/img,raw,hda").vdev.get(), 768);
}

#[test]
fn xm_forms() {
    let disk = parse("phy:hda3,sda1,w");
    assert_eq!(
        (disk.target.as_str(), disk.physical, disk.vdev.get()),
        ("/dev/hda3", true, 2049)
    );
    let disk = parse("file:/path,sda1,w,blk0");
    assert_eq!(
        (disk.target.as_str(), disk.physical, disk.backend.as_deref()),
        ("/path", false, Some("blk0"))
    );
}

#[test]
fn our_own_hotplug_script_may_be_named() {
    for script in ["block-ringfence", "/etc/xen/scripts/block-ringfence"] {
        let disk = parse(&format!("vdev=xvda,script={script},target=/img"));
        assert_eq!(disk.target, "/img");
    }
}

#[test]
fn images_and_what_stands_before_them() {
    let disk = parse(
        "format=qcow2,vdev=xvda,backing=qcow2:/mid.qcow2,backing=raw:/base.img,cache=writethrough,throttle.iops=100,\
         delay=5ms,target=/top.qcow2",
    );
    let image = disk.image("/top.qcow2".into());
    assert_eq!(image.format, ImageFormat::Qcow2);
    let below: Vec<_> = image
        .backing
        .iter()
        .map(|below| (below.format, below.target.to_str().expect("text")))
        .collect();
    let expected = [
        (ImageFormat::Qcow2, "/mid.qcow2"),
        (ImageFormat::Raw, "/base.img"),
    ];
    assert_eq!(below, expected);
    assert_eq!(image.cache, Cache::Through);
    assert_eq!(image.layers, "throttle.iops=100,delay=5ms");
    let disk = parse("vdev=xvda,direct-io-safe,access=w!,target=/img");
    assert_eq!(
        (disk.cache, disk.access),
        (Cache::Direct, DiskAccess::Shared)
    );
    assert!(disk.image("/img".into()).shared);
    let disk = parse("nbd:unix:/run/a.sock:disk,,xvda");
    assert_eq!(disk.format, ImageFormat::Nbd);
}

#[test]
fn a_drive_is_read_whatever_its_access_says() {
    for text in [
        "vdev=hdc,devtype=cdrom,access=rw,target=/img",
        "/img,raw,hdc,cdrom",
        "/img,,hdc:cdrom,r",
        "file:/img,hdc:cdrom,w",
        "cdrom,vdev=hdc,target=/img",
    ] {
        let disk = parse(text);
        assert!(disk.cdrom, "{text}");
        assert_eq!(disk.access, DiskAccess::ReadOnly, "{text}");
        assert_eq!((disk.vdev.get(), disk.vdev_name.as_str()), (5632, "hdc"));
        assert_eq!(disk.target, "/img");
    }
    for text in ["/img,raw,hda,w,devtype=disk", "/img,raw,hda:disk"] {
        let disk = parse(text);
        assert_eq!((disk.cdrom, disk.access), (false, DiskAccess::ReadWrite));
        assert_eq!(disk.vdev_name, "hda");
    }
}

#[test]
fn a_drive_may_be_empty() {
    for text in [
        "vdev=hdc,devtype=cdrom",
        ",raw,hdc,r,cdrom",
        "vdev=hdc,cdrom,target=",
    ] {
        let disk = parse(text);
        assert_eq!(
            (disk.format, disk.target.as_str()),
            (ImageFormat::Empty, "")
        );
        assert_eq!(crate::image::words(&disk, "".as_ref()), "");
    }
}

#[test]
fn discard_is_offered_where_there_is_writing_unless_said_otherwise() {
    for (text, discard) in [
        ("/img,raw,xvda", true),
        ("/img,raw,xvda,r", false),
        ("/img,raw,xvda,discard,r", true),
        ("discard,vdev=xvda,target=/img", true),
        ("vdev=xvda,no-discard,target=/img", false),
        ("/img,raw,xvda,w,no-discard", false),
        ("/img,raw,hdc,cdrom", false),
    ] {
        let disk = parse(text);
        assert_eq!(
            (disk.discard, disk.target.as_str()),
            (discard, "/img"),
            "{text}"
        );
    }
}

#[test]
fn every_refusal_names_field_and_value() {
    for (text, part) in [
        ("vdev=xvda", "no target"),
        ("/img,raw", "no vdev"),
        ("", "no target"),
        ("/img,raw,nonsense", "vdev 'nonsense'"),
        ("/img,vhd,xvda", "format 'vhd'"),
        ("format=vhd,vdev=hdc,cdrom", "format 'vhd'"),
        ("nbd:host:1,raw,xvda", "does not go with format raw"),
        ("/img,nbd,xvda", "does not go with format nbd"),
        (
            "nbd:host:1,,xvda",
            "target 'nbd:host:1': expected nbd:unix:",
        ),
        (
            "vdev=xvda,backing=raw:/b,target=/img",
            "only a qcow2 image has backing=",
        ),
        (
            "vdev=xvda,format=qcow2,backing=/b,target=/img",
            "backing '/b'",
        ),
        ("vdev=xvda,cache=some,target=/img", "cache 'some'"),
        (
            "vdev=xvda,delay=5,target=/img",
            "delay '5': expected a time",
        ),
        (
            "vdev=xvda,throttle.bps-burst=5,target=/img",
            "needs throttle.bps",
        ),
        ("/img,raw,xvda,rwx", "access 'rwx'"),
        ("/img,qcow2,xvda,w!", "access 'w!'"),
        ("/img,raw,xvda,rw,more", "'more' is one field too many"),
        ("vdev=xvda,vdev=xvdb,target=/img", "vdev is given twice"),
        ("vdev=xvda,colour=red,target=/img", "unknown key 'colour'"),
        ("vdev=xvda,discard=on,target=/img", "unknown key 'discard'"),
        (
            "vdev=xvda,discard,no-discard,target=/img",
            "discard is given twice",
        ),
        ("/img,raw,xvda:tape", "vdev 'xvda:tape'"),
        (
            "vdev=xvda,devtype=tape,target=/img",
            "devtype 'tape': expected disk or cdrom",
        ),
        (
            "vdev=xvda,script=block-drbd,target=/img",
            "script 'block-drbd'",
        ),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
}
