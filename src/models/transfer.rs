//! Moving a body from the network to the disk, with progress.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::fetch::{Answer, failed};
use super::partial::{PartialFile, Written};
use super::plan::MARGIN;
use super::progress::{self, Meter};
use super::units;
use crate::config::Timers;
use crate::error::{Code, Failure, Result};
use crate::n;
use crate::narration::waiting_for;

/// What every GGUF file begins with.
const MAGIC: &[u8] = b"GGUF";

/// One transfer, which may be dropped at any point.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    answer: &'a mut Answer,
    timers: &'a Timers,
    /// Free bytes on the disk when it began.
    free_bytes: u64,
    /// Bytes received so far.
    pub(super) done: u64,
    meter: Meter,
    last_piece: Instant,
    /// Whether the present silence has been told of.
    has_warned: bool,
}

impl<'a> Transfer<'a> {
    /// A transfer of this body, of which nothing has been read yet.
    pub(super) fn new(answer: &'a mut Answer, timers: &'a Timers, free_bytes: u64) -> Self {
        let now = Instant::now();
        let meter = Meter::new(answer.length, now);
        Self { answer, timers, free_bytes, done: 0, meter, last_piece: now, has_warned: false }
    }

    /// Receives the whole body into the file, and waits until the disk has it.
    ///
    /// # Errors
    /// [`Code::DownloadFailed`] where the body stalls, breaks off or is no GGUF file;
    /// [`Code::DiskFull`]; and whatever the disk says.
    pub(super) async fn run(&mut self, partial: &PartialFile) -> Result<Written> {
        let mut writer = partial.writer()?;
        let mut magic = Vec::new();
        let mut ticks = interval(self.timers.progress.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            let piece = tokio::select! {
                biased;
                _ = ticks.tick() => {
                    self.narrate();
                    continue;
                }
                piece = self.answer.chunk(self.last_piece) => piece?,
            };
            let Some(piece) = piece else { break };
            // What is no GGUF file is not worth its transfer.
            magic.extend(piece.iter().take(MAGIC.len() - magic.len()));
            if !MAGIC.starts_with(&magic) {
                return Err(failed(format!("what {} sends is not a GGUF file", self.answer.host))
                    .hint("check the URL in a browser: it must lead to the file itself"));
            }
            self.done += piece.len() as u64;
            if self.done.saturating_add(MARGIN) > self.free_bytes {
                let path = partial.path().display();
                return Err(Failure::new(
                    Code::DiskFull,
                    format!("{path} grew until the disk was nearly full"),
                )
                .hint("free some space on that disk, then try again"));
            }
            writer.write(piece).await?;
            self.last_piece = Instant::now();
            self.has_warned = false;
        }
        self.narrate();
        let _waiting = waiting_for("the disk to take the whole file");
        writer.finish().await
    }

    fn narrate(&mut self) {
        let progress = self.meter.sample(self.done, Instant::now());
        let sentence = progress::sentence(&progress);
        n!(progress: progress, "model_download_progress", "{sentence}");
        let (silence, stall) = (self.last_piece.elapsed(), self.timers.stall);
        if !self.has_warned && silence > stall / 3 {
            self.has_warned = true;
            n!(warn: "model_download_stalled", "{} has sent nothing for {}; giving up after {}",
               self.answer.host, units::duration(silence), units::duration(stall));
        }
    }
}
