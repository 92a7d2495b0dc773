//! Measures the listing of 2,000 models whose headers were read before, as for a page or a client that
//! lists the models repeatedly.
//!
//! `cargo bench --bench listing`

#![expect(clippy::print_stdout, reason = "figures are printed")]
#![expect(clippy::disallowed_methods, reason = "a bench makes the files that it names")]

mod many_models;
#[expect(dead_code, reason = "this bench compares nothing")]
mod paired;

use std::time::{Duration, Instant};

use many_models::Places;
use mimalloc::MiMalloc;
use paired::Spread;
use rbee_hive::config::Config;
use rbee_hive::models::Catalog;

/// The same allocator as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long after a change the hive does not rely on a file's modification time.
const FRESH: Duration = Duration::from_secs(3);

fn main() {
    let (models, rounds) = if paired::for_figures() { (2000, 100) } else { (20, 2) };
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a folder");
    let places = Places::with_models(&root, models);
    let config = Config {
        data_dir: places.data,
        models_dirs: vec![places.models],
        hub_cache: Some(places.hub),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let catalog = Catalog::new(&config).expect("a catalog");

    let begin = Instant::now();
    let listed = runtime.block_on(catalog.list()).expect("a listing").len();
    println!("{listed} models; the first listing, which reads every header: {:.1?}", begin.elapsed());
    assert_eq!(listed, models);
    std::thread::sleep(FRESH);
    assert_eq!(runtime.block_on(catalog.list()).expect("a listing").len(), models);
    let list = || {
        let begin = Instant::now();
        let models = runtime.block_on(catalog.list()).expect("a listing");
        (begin.elapsed(), models)
    };
    let took = (0..rounds).map(|_| list().0);
    println!("a listing, ms (20 is the aim): {}", Spread::of(took.map(milliseconds)));
    let took = (0..rounds).map(|_| {
        let models = list().1;
        let begin = Instant::now();
        assert!(!serde_json::to_vec(&models).expect("JSON").is_empty());
        begin.elapsed()
    });
    println!("writing it as JSON, ms:        {}", Spread::of(took.map(milliseconds)));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
