//! `rbee-hive lease SIZE`: makes room for another program; `lease release ID` gives it back.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::fields;
use crate::cli::words::of_field;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    verb: Option<LeaseVerb>,
    /// How much memory: 8GiB, or a number of bytes
    #[arg(required = true)]
    size: Option<String>,
    /// Whose memory: cpu, cuda:0, or a number, which counts GPUs [default: the GPU with the most memory, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// After how many seconds it expires [default: 3600]
    #[arg(long)]
    seconds: Option<u64>,
    /// The program that gets the memory, for people
    #[arg(long, alias = "reason")]
    holder: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum LeaseVerb {
    /// End a lease: the models that went for it come back
    Release {
        /// The id of the lease
        id: String,
    },
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        if let Some(LeaseVerb::Release { id }) = self.verb {
            let released = session.run("MemoryRelease", json!({ "lease_id": id })).await?;
            return session.show(&released, of_released);
        }
        let request = json!({
            "bytes": self.size, "device": self.device, "seconds": self.seconds, "holder": self.holder,
        });
        let lease = session.run("MemoryLease", request).await?;
        session.show(&lease, fields)
    }
}

fn of_released(released: &Value) -> String {
    let restores = of_field("restores", &released["restores"]);
    format!("released; {} come back\n", restores.unwrap_or_else(|| "no models".to_owned()))
}
