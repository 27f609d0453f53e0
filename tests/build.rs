//! Compiles the C peer of the ring's differential test, or says why it cannot.

use std::path::Path;

const HEADER: &str = "/usr/include/xen/io/ring.h";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ring_peer)");
    println!("cargo::rerun-if-changed=c/ring_peer.c");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={HEADER}");
    match ring_peer() {
        Ok(()) => println!("cargo::rustc-cfg=ring_peer"),
        Err(why) => println!("cargo::rustc-env=RING_PEER_MISSING={why}"),
    }
}

fn ring_peer() -> Result<(), &'static str> {
    if !Path::new(HEADER).exists() {
        return Err("no /usr/include/xen/io/ring.h (libxen-dev)");
    }
    let compiled = cc::Build::new()
        .file("c/ring_peer.c")
        .define("__XEN_INTERFACE_VERSION__", "0x00040e00")
        .cargo_metadata(false)
        .try_compile("ring_peer");
    if compiled.is_err() {
        return Err("no C compiler that accepts c/ring_peer.c");
    }
    let out = std::env::var("OUT_DIR").map_err(|_| "no OUT_DIR")?;
    println!("cargo::rustc-link-search=native={out}");
    Ok(())
}
