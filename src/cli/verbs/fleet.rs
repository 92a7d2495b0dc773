//! `rbee-hive fleet …`: makes a fleet of machines, lets machines in and out, and shows who is there.
//!
//! The secret of an invitation is made here and shown once: the hive gets its hash.

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, fields, number, number_of, table, text_of};
use crate::cli::words::{member, of_field, with_days};
use crate::secret_hash::SecretHash;
use crate::text::{bytes, hex};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    verb: Option<FleetVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum FleetVerb {
    /// Make a fleet on this machine, or start the one that it made, and print the line that another machine joins by
    Up(Up),
    /// Print a line that one more machine joins by
    Invite {
        /// How long it can be used, such as 10m or 1d [default: 1h]
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
    },
    /// Join the fleet of another machine, by the line that it printed
    Join {
        /// Where that machine is
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The code of the invitation
        code: String,
    },
    /// Leave the fleet
    Leave {
        /// Stop the fleet's server too, where this machine runs it
        #[arg(long)]
        force: bool,
        /// Remove the fleet's keys and streams for good, where this machine has them
        #[arg(long)]
        forget: bool,
    },
    /// Take the access of hives to the fleet that this machine runs
    Expel {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Keep a model on several hives
    Place {
        /// The model's id or name
        model: String,
        /// How many hives are to have it; 0 ends the keeping, and deletes nothing
        copies: usize,
    },
    /// Show the hives of the fleet (the default)
    Status,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// The name of the fleet [default: home]
    #[arg(long)]
    name: Option<String>,
    /// Where nats-server listens [default: 0.0.0.0:4222]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where other machines join [default: 0.0.0.0:7836]
    #[arg(long, value_name = "ADDRESS:PORT")]
    join_listen: Option<String>,
    /// The host name or address under which other machines reach this one [default: its host name]
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// How long the line can be used that is printed, such as 10m or 1d [default: 1h]
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        match self.verb.unwrap_or(FleetVerb::Status) {
            FleetVerb::Up(up) => up.run(session).await,
            FleetVerb::Invite { expires } => {
                let secret = secret();
                let request = json!({
                    "sha256": SecretHash::of(secret.as_bytes()), "expires_in": expires.map(with_days),
                });
                let mut invitation = session.run("FleetInvite", request).await?;
                complete(&mut invitation, &secret);
                session.show(&invitation, of_invitation)
            }
            FleetVerb::Join { address, code } => {
                let joined = session.run("FleetJoin", json!({ "address": address, "code": code })).await?;
                session.show(&joined, fields)
            }
            FleetVerb::Leave { force, forget } => {
                let left = session.run("FleetLeave", json!({ "force": force, "forget": forget })).await?;
                session.show(&left, fields)
            }
            FleetVerb::Expel { names } => {
                super::each(&names, async |name| {
                    let expelled = session.run("FleetExpel", json!({ "name": name })).await?;
                    session.show(&expelled, |_| format!("expelled {name}\n"))
                })
                .await
            }
            FleetVerb::Place { model, copies } => {
                let placed = session.run("ModelPlace", json!({ "model": model, "copies": copies })).await?;
                session.show(&placed, fields)
            }
            FleetVerb::Status => {
                let status = session.run("FleetStatus", json!({})).await?;
                session.show(&status, of_status)
            }
        }
    }
}

impl Up {
    async fn run(self, session: &Session) -> Ended {
        let secret = secret();
        let request = json!({
            "name": self.name, "listen": self.listen, "join_listen": self.join_listen,
            "advertise": self.advertise, "expires_in": self.expires.map(with_days),
            "sha256": SecretHash::of(secret.as_bytes()),
        });
        let mut hosted = session.run("FleetUp", request).await?;
        complete(&mut hosted["invitation"], &secret);
        session.show(&hosted, |hosted| {
            let mut fleet = hosted.clone();
            let invitation = fleet.as_object_mut().and_then(|fleet| fleet.remove("invitation"));
            format!("{}\n{}", fields(&fleet), of_invitation(&invitation.unwrap_or_default()))
        })
    }
}

/// A secret of 128 random bits.
fn secret() -> String {
    hex(&rand::random::<[u8; 16]>())
}

/// Puts the secret where it belongs, at the end of the line.
fn complete(invitation: &mut Value, secret: &str) {
    if let Some(join) = invitation["join"].as_str() {
        invitation["join"] = format!("{join}{secret}").into();
    }
}

fn of_invitation(invitation: &Value) -> String {
    let join = invitation["join"].as_str().unwrap_or_default();
    let expires = of_field("expires_at", &invitation["expires_at"]).unwrap_or_default();
    let others = of_field("other_addresses", &invitation["other_addresses"]);
    let others = others.map_or_else(String::new, |others| {
        format!("If it does not know that host, one of these in its place may do: {others}\n")
    });
    format!(
        "Run this on the machine that is to join; it is for one, and expires {expires}:\n\n  {join}\n\n{others}"
    )
}

fn of_status(status: &Value) -> String {
    if status["fleet"].is_null() {
        return "This hive is in no fleet. `rbee-hive fleet up` makes one, `rbee-hive fleet join` joins one.\n".to_owned();
    }
    let mut head = status.clone();
    let mut take = |name| head.as_object_mut().and_then(|head| head.remove(name)).unwrap_or_default();
    let (hives, places) = (take("hives"), take("places"));
    let table = table(
        hives.as_array().map_or(&[], Vec::as_slice),
        &[
            text_of("HIVE", "hive"),
            column("PRESENCE", presence),
            number("RAM FREE", |hive| memory(hive, |device| device == "cpu")),
            number("GPU MEMORY FREE", |hive| memory(hive, |device| device != "cpu")),
            number_of("MODELS", "models"),
            number_of("WORKERS", "workers"),
            number_of("JOBS", "jobs"),
            text_of("VERSION", "version"),
            column("URL", |hive| hive["url"].as_str().unwrap_or("-").to_owned()),
        ],
    );
    format!("{}\n{table}{}", fields(&head), of_places(&places))
}

/// Whether a hive can be reached, and when it was heard last where it cannot.
fn presence(hive: &Value) -> String {
    let silent = of_field("silent_since", &hive["silent_since"]);
    let heard = silent.map_or_else(String::new, |silent| format!(", heard {silent}"));
    format!("{}{heard}", member(hive, "presence"))
}

/// The models that are kept on several hives; nothing where there are none.
fn of_places(places: &Value) -> String {
    let places = places.as_array().map_or(&[][..], Vec::as_slice);
    if places.is_empty() {
        return String::new();
    }
    let hives = |place: &Value, of: fn(&Value) -> Option<&str>, name: &str| {
        let hives = place[name].as_array().map_or(&[][..], Vec::as_slice);
        let hives: Vec<_> = hives.iter().filter_map(of).collect();
        if hives.is_empty() { "-".to_owned() } else { hives.join(", ") }
    };
    let table = table(
        places,
        &[
            text_of("MODEL", "model"),
            number_of("COPIES", "copies"),
            column("HIVES", move |place| hives(place, Value::as_str, "hives")),
            column("COPYING", move |place| hives(place, |copying| copying["hive"].as_str(), "copying")),
        ],
    );
    format!("\n{table}")
}

/// What is free of the memory of those devices of a hive, and how much they have; `-` where it has none.
fn memory(hive: &Value, is_meant: impl Fn(&str) -> bool) -> String {
    let devices = hive["devices"].as_array().map_or(&[][..], Vec::as_slice);
    let meant = devices.iter().filter(|device| device["device"].as_str().is_some_and(&is_meant));
    let sizes =
        meant.filter_map(|device| Some((device["free_bytes"].as_u64()?, device["capacity_bytes"].as_u64()?)));
    let sums = sizes.reduce(|sum, device| (sum.0 + device.0, sum.1 + device.1));
    sums.map_or_else(|| "-".to_owned(), |(free, all)| format!("{} of {}", bytes(free), bytes(all)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::Instant;

    #[test]
    fn a_line_is_completed_with_the_secret() {
        let mut invitation = json!({
            "join": "rbee-hive fleet join gpu-1:7836 AQ", "other_addresses": ["10.0.0.7:7836"],
            "expires_at": "2026-11-23T12:00:00.123Z",
        });
        complete(&mut invitation, "secret");
        let shown = of_invitation(&invitation);
        assert!(shown.contains("\n  rbee-hive fleet join gpu-1:7836 AQsecret\n"), "{shown}");
        assert!(shown.contains("10.0.0.7:7836"), "{shown}");
        let mut none = Value::Null;
        complete(&mut none, "secret");
        assert!(!none.to_string().contains("secret"));
    }

    #[test]
    fn a_status_is_a_table_of_hives() {
        let status = json!({
            "fleet": "home", "hive": "a", "nats": ["tls://a:4222"], "is_in": true, "trouble": null,
            "unpublished": 0,
            "hives": [{
                "hive": "a", "presence": "reachable", "models": 3, "workers": 1, "version": "0.1.0",
                "url": "http://10.0.0.7:7835", "jobs": 2,
                "devices": [
                    { "device": "cpu", "free_bytes": 1 << 30, "capacity_bytes": 2_u64 << 30 },
                    { "device": "cuda:0", "free_bytes": 4_u64 << 30, "capacity_bytes": 8_u64 << 30 },
                    { "device": "cuda:1", "free_bytes": 8_u64 << 30, "capacity_bytes": 8_u64 << 30 },
                ],
            }, { "hive": "b" }, {
                "hive": "c", "presence": "unreachable",
                "silent_since": Instant::now().earlier(Duration::from_secs(150)),
            }],
            "places": [],
        });
        let shown = of_status(&status);
        let rows: Vec<_> =
            shown.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows[rows.len() - 3..],
            [
                "a reachable 1.0 GiB of 2.0 GiB 12.0 GiB of 16.0 GiB 3 1 2 0.1.0 http://10.0.0.7:7835",
                "b - - - - - - - -",
                "c unreachable, heard 2 minutes ago - - - - - - -",
            ]
        );
        assert!(of_status(&json!({ "fleet": null })).contains("in no fleet"));
        let mut placed = status;
        placed["places"] = json!([{
            "model": "m", "copies": 3, "hives": ["a", "b"], "lacking": null,
            "copying": [{ "hive": "c", "job_id": "job-1" }],
        }]);
        let shown = of_status(&placed);
        let row = shown.lines().last().unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>().join(" "), "m 3 a, b c");
    }
}
