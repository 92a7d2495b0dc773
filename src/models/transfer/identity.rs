//! Which file a transfer fetches, and whether an answer is of that very version of it.

use crate::models::transfer::answer::{FileAnswer, empty_file};
use crate::models::transfer::journal::Head;
use crate::models::transfer::remote::RemoteFile;
use crate::models::transfer::trouble::{FetchResult, Trouble, TroubleKind, download_failed};

/// What is known of the file in one attempt.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) head: Head,
    /// Whether a first answer, or the journal, tells which file this is. From then on, an answer that
    /// tells otherwise is a failure.
    pub(crate) is_known: bool,
}

/// What to do with an answer that is not a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Receive its body. It is the first that tells which file this is.
    First,
    /// Receive its body.
    Receive,
    /// Ask for the whole file instead.
    AskForWhole,
}

impl Identity {
    /// Whether the bytes received so far can be combined with those of another request.
    pub(crate) fn is_resumable(&self) -> bool {
        self.is_known && self.head.is_resumable()
    }

    /// Judges the answer of a server. A first answer completes the head.
    ///
    /// # Errors
    /// Where the answer is of another version of the file, or of an empty file.
    pub(crate) fn judge(
        &mut self,
        file: &RemoteFile,
        host: &str,
        answer: &FileAnswer,
    ) -> FetchResult<Judgement> {
        let content = match answer {
            FileAnswer::Content(content) => content,
            FileAnswer::NotSatisfiable { size } => match (*size, self.head.size.or(file.size)) {
                (Some(0), None | Some(0)) => return Err(empty_file(host)),
                (Some(size), Some(known)) if size != known => return Err(changed(file, host)),
                // The server may not do ranges after all.
                _ => return Ok(Judgement::AskForWhole),
            },
        };
        let is_promised = file.sha256.is_some() || file.version.is_some();
        if let (Some(size), Some(promised)) = (content.size, file.size)
            && is_promised
            && size != promised
        {
            // One of a server's machines may be behind the others, or a proxy in between.
            return Err(Trouble::passing(
                download_failed(format!("{host} has {size} bytes of the file, which should have {promised}"))
                    .hint("the server has another file than its catalog says: try again later"),
            ));
        }
        if self.is_known {
            let is_other_size = content.size.is_some() && content.size != self.head.size;
            let is_other_version = match (&content.validator, &self.head.validator) {
                // An ETag cannot be compared with a date.
                (Some(one), Some(other)) => one.starts_with('"') == other.starts_with('"') && one != other,
                _ => false,
            };
            if is_other_size || is_other_version {
                return Err(changed(file, host));
            }
        }
        let can_combine = self.is_known || content.validator.is_some() || file.sha256.is_some();
        if content.range.is_some() && (content.size.is_none() || !can_combine) {
            return Ok(Judgement::AskForWhole);
        }
        if self.is_known || content.size.is_none() {
            return Ok(Judgement::Receive);
        }
        self.head.size = content.size;
        self.head.validator.clone_from(&content.validator);
        self.is_known = true;
        Ok(Judgement::First)
    }
}

fn changed(file: &RemoteFile, host: &str) -> Trouble {
    let failure = download_failed(format!("{host} has another version of {} now", file.name))
        .hint("the file changes while it is being downloaded: try again when that has ended");
    Trouble::new(TroubleKind::Changed, failure)
}
