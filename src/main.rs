//! The `postern` command: hands the command line to [`postern::cli`] and exits with its verdict.

use std::process::ExitCode;

/// Freed memory goes back to the system, and small allocations of many threads do not contend.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postern::cli::main()
}
