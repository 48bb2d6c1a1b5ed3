//! The `postern` command: hands the command line to [`postern::cli`] and exits with its verdict.
fn main() {}
