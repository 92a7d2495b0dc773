//! `rbee-hive quickstart`

/// x
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
impl Args {
    pub(super) async fn run(self) -> crate::error::Result<()> { Ok(()) }
}
