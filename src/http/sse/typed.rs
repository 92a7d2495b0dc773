//! The schema of an event of a typed stream, for the description of the API.

use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::jobs::event::{Data, FailedData};
use crate::jobs::log::Elision;

/// The data of an event, by its name.
pub(crate) struct TypedEvent;

impl PartialSchema for TypedEvent {
    fn schema() -> RefOr<Schema> {
        let names = [Data::name(), FailedData::name(), Elision::name()];
        let any = names.into_iter().map(Ref::from_schema_name).fold(AnyOfBuilder::new(), AnyOfBuilder::item);
        any.description(Some(
            "Of the form `json`: the data of `narration`, `result`, `done` and `cancelled`; of `failed`; of `elision`. \
             A plain stream has text, and ends with `[DONE]`, `[ERROR] …` or `[CANCELLED]`.",
        ))
        .into()
    }
}

impl ToSchema for TypedEvent {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Data::schemas(schemas);
        FailedData::schemas(schemas);
        schemas.extend([
            (Data::name().into(), Data::schema()),
            (FailedData::name().into(), FailedData::schema()),
            (Elision::name().into(), Elision::schema()),
        ]);
    }
}
