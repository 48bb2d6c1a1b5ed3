//! x
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let path = std::env::args().last().unwrap_or("config/postern.toml".into());
    let config = match postern::config::load(std::path::Path::new(&path)) { Ok(c) => c, Err(e) => { eprintln!("{e}"); return } };
    if let Err(e) = postern::agent::run(config, |t| println!("{t}")) { eprintln!("{e}: {e:?}"); }
}
