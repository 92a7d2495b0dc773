//! The ids of responses and of their items.

/// The ids of one response. Each item's has the response's in it, so that a reference to an item tells where it is.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    key: String,
}

/// The length of a key, which is a UUID in hexadecimal.
const KEY: usize = 32;

impl Ids {
    /// New ids. Nobody can guess them.
    pub(crate) fn new() -> Self {
        Self { key: uuid::Uuid::new_v4().simple().to_string() }
    }

    /// The response's id.
    pub(crate) fn response(&self) -> String {
        format!("resp_{}", self.key)
    }

    /// The id of the response's item of that number; `kind` is what OpenAI's ids of such items begin with.
    pub(super) fn item(&self, kind: &str, number: usize) -> String {
        format!("{kind}_{}{number:04x}", self.key)
    }

    /// The id of the response that an item is of, by the item's id.
    pub(crate) fn response_of(item: &str) -> Option<String> {
        let key = item.split_once('_')?.1.get(..KEY)?;
        Some(format!("resp_{key}"))
    }
}
