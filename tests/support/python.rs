//! A Python with packages of PyPI, made on first use and kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One environment is made at a time.
static MAKING: Mutex<()> = Mutex::new(());

/// The interpreter of an environment called `name` which holds `packages`, as pip spells them, and can import `modules`.
///
/// # Errors
/// Says for whom a skipped test is to be skipped: there is no Python, or the packages cannot be had.
pub(crate) fn python_with(name: &str, modules: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let _making = MAKING.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    let can_import = || {
        let output = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if can_import() {
        return Ok(python);
    }
    let (mut make, mut install) = (Command::new("python3"), Command::new(&python));
    make.args(["-m", "venv"]).arg(&folder);
    install.args(["-m", "pip", "install", "--quiet", "--timeout", "15", "--retries", "1"]).args(packages);
    for step in [&mut make, &mut install] {
        let output = step.output().map_err(|_| "python3 is not installed")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{name} cannot be installed from PyPI: {why}"));
        }
    }
    if can_import() { Ok(python) } else { Err(format!("this Python cannot import {modules}")) }
}
