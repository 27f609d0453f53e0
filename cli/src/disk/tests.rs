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
fn every_refusal_names_field_and_value() {
    for (text, part) in [
        ("vdev=xvda", "no target"),
        ("/img,raw", "no vdev"),
        ("", "no target"),
        ("/img,raw,nonsense", "vdev 'nonsense'"),
        ("/img,qcow2,xvda", "format 'qcow2'"),
        ("/img,raw,xvda,rwx", "access 'rwx'"),
        ("/img,raw,xvda,w!", "access 'w!'"),
        ("/img,raw,xvda,rw,more", "'more' is one field too many"),
        ("vdev=xvda,vdev=xvdb,target=/img", "vdev is given twice"),
        ("vdev=xvda,colour=red,target=/img", "unknown key 'colour'"),
        (
            "vdev=xvda,script=block-drbd,target=/img",
            "script 'block-drbd'",
        ),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
}
