//! A call on its way from one hive to another: what there is of it besides its body, in a header.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::call::{Call, Form};
use crate::config::{Capability, KeepAlive};
use crate::error::{Code, Failure, Result};
use crate::text::json;
use crate::workers::{Conversation, Route};

/// The header.
pub(crate) const CALL: HeaderName = HeaderName::from_static("rbee-call");
/// The content type of a refusal of a hive, as opposed to an error that an engine answers.
pub(crate) const REFUSAL: &str = "application/vnd.rbee.refusal+json";

/// A call without its body. Fields of later versions are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Forwarded {
    /// The id under which the other hive serves what is asked.
    pub(crate) model: String,
    pub(crate) route: Route,
    /// Who asks.
    pub(crate) caller: String,
    #[serde(default)]
    pub(crate) streams: bool,
    #[serde(default)]
    pub(crate) conversation: Conversation,
    #[serde(default)]
    pub(crate) needs: Vec<Capability>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive: Option<KeepAlive>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context_length: Option<u64>,
}

impl Forwarded {
    /// Reads the header of a request.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self> {
        let header = headers.get(CALL).map(HeaderValue::as_bytes).unwrap_or_default();
        serde_json::from_slice(header).map_err(|error| {
            Failure::new(Code::InvalidRequest, format!("the header {CALL} cannot be understood: {error}"))
                .hint("the hives of the fleet may be of different versions: update the older one")
        })
    }

    /// The header.
    pub(super) fn header(&self) -> Result<HeaderValue> {
        // Names may have letters beyond ASCII, which a header can carry as they are (RFC 9110, section 5.5).
        HeaderValue::from_bytes(json(self).as_bytes())
            .map_err(|error| Failure::internal("a call cannot be written into a header").detail(error))
    }

    /// The call, for this hive alone.
    pub(crate) fn into_call(self, body: Bytes) -> Call {
        let Self { model, route, streams, conversation, needs, keep_alive, context_length, .. } = self;
        Call {
            model,
            route,
            body,
            streams,
            conversation,
            needs,
            keep_alive,
            context_length,
            ignored: Vec::new(),
            form: Form::Untouched,
            is_of_hive: true,
        }
    }
}
