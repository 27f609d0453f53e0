//! `cargo xtask image`: kernels that Xen boots, on a stock toolchain.

use crate::counts::target_dir;
use crate::lab;
use crate::process::{cargo, root, run as run_command};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which: a folder of images/
    name: String,
    /// Boot it in a machine without Xen, where all it can do is say so and switch off
    #[arg(long)]
    boot: bool,
}

/// Builds it and says where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let image = build(&options.name)?;
    let size = fs::metadata(&image)?.len();
    println!("{} ({size} bytes)", image.display());
    if options.boot {
        print!("{}", lab::boot_without_xen(&image)?);
    }
    Ok(())
}

/// Builds the image of this name; returns its path.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    let folder = root().join("images").join(name);
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no {}", manifest.display());
    }
    let target = target_dir()?.join("images");
    run_command(
        cargo()
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            // Those of the caller are for programs of the host.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )?;
    let built = target.join(format!("release/ringfence-image-{name}"));
    check(&built).with_context(|| format!("{} is no kernel for Xen", built.display()))?;
    Ok(built)
}

/// Follows docs/your-kernel.md from an empty folder: a shell does what the page says, up to where it needs a Xen.
/// Returns the path of the kernel that comes of it.
pub(crate) fn follow_page() -> Result<PathBuf> {
    let page = root().join("docs/your-kernel.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let beside = target_dir()?.join("your-kernel");
    let folder = beside.join("kernel");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&beside)?;
    let here = beside.join("ringfence");
    // Of another checkout, if it was one that built here last.
    if here.is_symlink() {
        fs::remove_file(&here)?;
    }
    std::os::unix::fs::symlink(root(), &here)?;
    let target = beside.join("target");
    let mut shell = Command::new("sh");
    shell
        .args(["-e", "-c", &steps(&text)?])
        .current_dir(&beside)
        // What was built before stays, the folder is new.
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run_command(&mut shell)?;
    let built = target.join("release/kernel");
    check(&built).with_context(|| format!("{} is no kernel for Xen", built.display()))?;
    Ok(built)
}

/// The page as a shell script: its files, and its commands above the section for which there must be a Xen.
fn steps(page: &str) -> Result<String> {
    let (build, _) = page
        .split_once("\n## 3.")
        .context("the page has no section 3")?;
    let mut script = String::new();
    for block in build.split("\n```").skip(1).step_by(2) {
        let (head, content) = block.split_once('\n').unwrap_or_default();
        match head.split_once(" file=") {
            Some((_, name)) => {
                let _ = writeln!(
                    script,
                    "cat >{name} <<'END OF FILE'\n{content}\nEND OF FILE"
                );
            }
            None if head == "console" => {
                let _ = writeln!(script, "{content}");
            }
            None => bail!("nobody knows what to do with a block of `{head}`"),
        }
    }
    Ok(script)
}

/// A kernel that Xen's builder takes has a note of Xen's, and nothing that a loader would have to do.
fn check(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let elf = goblin::elf::Elf::parse(&bytes)?;
    if elf.interpreter.is_some() || elf.dynamic.is_some() {
        bail!("it wants to be linked at run time");
    }
    let notes = elf.iter_note_headers(&bytes).into_iter().flatten();
    let xen = notes.flatten().filter(|note| note.name == "Xen").count();
    if xen == 0 {
        bail!("it has no note of Xen's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::steps;

    #[test]
    fn a_page_becomes_a_script() {
        let page = "# A\n\n```console\nmkdir x\n```\n\nText.\n\n```toml file=x/a\nb\nc\n```\n\n## 3. X\n\n```console\nno\n```\n";
        let wanted = "mkdir x\ncat >x/a <<'END OF FILE'\nb\nc\nEND OF FILE\n";
        assert_eq!(steps(page).expect("has a section 3"), wanted);
        assert!(steps("```sh\n```\n## 3.").is_err());
    }
}
