//! The same chat in every dialect, and the same answer written by every one.

mod answers;
mod chats;
mod decode;
mod encode;
mod strategies;
