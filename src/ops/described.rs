//! The schemas of an operation, as its types have them.

use std::collections::BTreeMap;

use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::operation::Operation;

/// What the types of one operation say of its JSON.
pub(super) struct Described {
    /// Its own fields: an object that takes no others.
    pub(super) fields: Object,
    /// The result.
    pub(super) result: RefOr<Schema>,
    /// The schemas that these two name.
    pub(super) named: BTreeMap<String, RefOr<Schema>>,
}

/// The schemas of an operation. A result whose type has the name `{NAME}Result` is the operation's own; every other
/// one is named by its type.
pub(super) fn describe<T: Operation>() -> Described {
    let RefOr::T(Schema::Object(fields)) = T::schema() else {
        panic!("the request of {} is a struct with named fields", T::NAME)
    };
    let mut named = Vec::new();
    T::schemas(&mut named);
    T::Output::schemas(&mut named);
    let name = T::Output::name();
    let result = if name == result_name(T::NAME) {
        T::Output::schema()
    } else {
        named.push((name.to_string(), T::Output::schema()));
        Ref::from_schema_name(name).into()
    };
    Described { fields, result, named: named.into_iter().collect() }
}

/// The name of the schema of an operation's result.
pub(super) fn result_name(operation: &str) -> String {
    format!("{operation}Result")
}
