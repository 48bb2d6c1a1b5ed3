//! The `postern` command: hands the command line to [`postern::cli`] and exits with its verdict.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Freed memory is overwritten, for secrets pass through buffers of libraries too, and goes back to the system; small allocations
/// of many threads do not contend.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    postern::cli::main()
}
