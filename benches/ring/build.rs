//! Compiles the C side with -O3, and notes the compilers for the report.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=c/loops.c");
    println!("cargo::rerun-if-changed=build.rs");
    let mut build = cc::Build::new();
    build
        .file("c/loops.c")
        .opt_level(3)
        .debug(false)
        .define("__XEN_INTERFACE_VERSION__", "0x00040e00")
        .warnings(false);
    let compiler = build.get_compiler();
    let flags: Vec<_> = compiler
        .args()
        .iter()
        .map(|arg| arg.to_string_lossy())
        .collect();
    println!(
        "cargo::rustc-env=C_COMPILER={} {}",
        first_line(compiler.to_command()),
        flags.join(" ")
    );
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    println!(
        "cargo::rustc-env=RUST_COMPILER={}",
        first_line(Command::new(rustc))
    );
    build.compile("loops");
}

fn first_line(mut command: Command) -> String {
    let output = command.arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "version unknown".to_owned())
}
