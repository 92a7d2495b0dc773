//! A row of the operation table: one operation's type, seen without its type.

use std::marker::PhantomData;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::described::{Described, describe};
use super::field_error::FieldError;
use super::operation::{Context, Deadline, Operation};
use crate::app::AppState;
use crate::config::Role;
use crate::error::{Failure, Result};
use crate::fleet::Offer;
use crate::jobs::{JobClass, OperationKind};
use crate::n;
use crate::narration::by_itself;

/// One operation of the table.
#[derive(Debug)]
pub struct Row {
    /// The name as the key of a one-field object: `ModelList`.
    pub name: &'static str,
    /// The name as the value of `operation`, and everywhere else: `model_list`.
    pub wire_name: &'static str,
    /// The verb of the command line that submits it, such as `engines install`.
    pub verb: &'static str,
    /// Whether it only reads or changes something.
    pub kind: OperationKind,
    /// The limit that it counts against.
    pub class: JobClass,
    /// How long it may take.
    pub deadline: Deadline,
    /// The role that a caller's token needs.
    pub role: Role,
    /// Whether it runs even where its journal cannot be written.
    pub frees: bool,
    /// The field that names the hive, besides `hive_id`.
    pub hive_field: &'static str,
    decode: fn(&Value) -> Result<Decoded, FieldError>,
    /// The schemas of its fields and of its result.
    pub(super) describe: fn() -> Described,
}

/// A request that was understood.
pub(super) struct Decoded {
    pub(super) operation: Box<dyn ReadyOperation>,
    /// The request's own fields, with every default filled in.
    pub(super) request: Value,
}

/// An operation with its request, ready to run.
pub(super) trait ReadyOperation: Send + Sync {
    /// Runs it and narrates its result.
    fn run(self: Box<Self>, cx: Context) -> BoxFuture<'static, Result<()>>;

    /// What this hive offers for it.
    fn offer<'a>(&'a self, app: &'a AppState) -> BoxFuture<'a, Result<Offer>>;
}

impl<T: Operation> ReadyOperation for T {
    fn run(self: Box<Self>, cx: Context) -> BoxFuture<'static, Result<()>> {
        async move {
            let output = Operation::run(*self, cx).await?;
            let result: Box<RawValue> = serde_json::value::to_raw_value(&output)
                .map_err(|error| Failure::internal("the result did not serialise").detail(error))?;
            n!(result: result);
            Ok(())
        }
        .boxed()
    }

    fn offer<'a>(&'a self, app: &'a AppState) -> BoxFuture<'a, Result<Offer>> {
        by_itself(WireName::<T>::TEXT, Operation::offer(self, app)).boxed()
    }
}

impl Row {
    /// The row of an operation.
    #[must_use]
    pub const fn of<T: Operation>() -> Self {
        Self {
            name: T::NAME,
            wire_name: WireName::<T>::TEXT,
            verb: T::VERB,
            kind: T::KIND,
            class: T::CLASS,
            deadline: T::DEADLINE,
            role: T::ROLE,
            frees: T::FREES,
            hive_field: T::HIVE_FIELD,
            decode: decode::<T>,
            describe: describe::<T>,
        }
    }

    /// The request with these fields, to that hive, in its `operation` spelling.
    pub(super) fn request_for(&self, hive: &str, fields: Map<String, Value>) -> Result<Box<RawValue>> {
        let mut request = Map::new();
        request.insert("operation".into(), self.wire_name.into());
        request.insert(self.hive_field.into(), hive.into());
        request.extend(fields);
        serde_json::value::to_raw_value(&request)
            .map_err(|error| Failure::internal("a request did not serialise").detail(error))
    }

    /// Reads the operation's own fields.
    pub(super) fn decode(&self, fields: &Value) -> Result<Decoded> {
        (self.decode)(fields).map_err(|error| error.into_failure(self.name))
    }
}

fn decode<T: Operation>(fields: &Value) -> Result<Decoded, FieldError> {
    let operation: T = serde_path_to_error::deserialize(fields).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.inner().to_string();
        match path.as_str() {
            "." => FieldError::of_object(problem),
            // A string in these fields can only be refused for its grammar.
            "id" | "model" if fields[path.as_str()].is_string() => FieldError::of_id(path, problem),
            _ => FieldError::of_field(&path, &problem),
        }
    })?;
    let request =
        serde_json::to_value(&operation).map_err(|error| FieldError::of_object(error.to_string()))?;
    Ok(Decoded { operation: Box::new(operation), request })
}

/// The `snake_case` form of [`Operation::NAME`], made by the compiler.
struct WireName<T>(PhantomData<T>);

impl<T: Operation> WireName<T> {
    const BUFFER: ([u8; 64], usize) = snake_case(T::NAME);
    const TEXT: &'static str = match str::from_utf8(Self::BUFFER.0.split_at(Self::BUFFER.1).0) {
        Ok(name) => name,
        Err(_) => panic!("the name of an operation is ASCII"),
    };
}

/// The bytes of the name in `snake_case`, and how many they are.
const fn snake_case(name: &str) -> ([u8; 64], usize) {
    let (mut out, mut length, mut i) = ([0; 64], 0, 0);
    let name = name.as_bytes();
    while i < name.len() {
        if name[i].is_ascii_uppercase() && i > 0 {
            out[length] = b'_';
            length += 1;
        }
        out[length] = name[i].to_ascii_lowercase();
        length += 1;
        i += 1;
    }
    (out, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_its_capitals() {
        let (bytes, length) = snake_case("WorkerProcessList");
        assert_eq!(&bytes[..length], b"worker_process_list");
    }
}
