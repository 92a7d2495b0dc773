//! The one gate between a model's words and a page: a list of what may pass.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use ammonia::{Builder, UrlRelative};

use super::code;

/// The elements of prose and code.
pub(super) const PROSE: [&str; 26] = [
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "span",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
    "math",
];

/// The elements of formulas (`MathML` Core, section 2), below `math`.
pub(super) const FORMULAS: [&str; 26] = [
    "merror",
    "mfrac",
    "mi",
    "mmultiscripts",
    "mn",
    "mo",
    "mover",
    "mpadded",
    "mphantom",
    "mprescripts",
    "mroot",
    "mrow",
    "ms",
    "mspace",
    "msqrt",
    "mstyle",
    "msub",
    "msubsup",
    "msup",
    "mtable",
    "mtd",
    "mtext",
    "mtr",
    "munder",
    "munderover",
    "none",
];

/// The attributes of formulas. None names an address or a style.
pub(super) const FORMULA_ATTRIBUTES: [&str; 20] = [
    "accent",
    "accentunder",
    "depth",
    "display",
    "displaystyle",
    "form",
    "height",
    "largeop",
    "linethickness",
    "lspace",
    "mathvariant",
    "maxsize",
    "minsize",
    "movablelimits",
    "rspace",
    "scriptlevel",
    "stretchy",
    "symmetric",
    "voffset",
    "width",
];

static CLEANER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let formula = HashSet::from(FORMULA_ATTRIBUTES);
    let mut attributes: HashMap<_, _> =
        FORMULAS.into_iter().chain(["math"]).map(|element| (element, formula.clone())).collect();
    attributes.extend([
        ("a", HashSet::from(["href"])),
        ("ol", HashSet::from(["start"])),
        ("code", HashSet::from(["class"])),
        ("span", HashSet::from(["class"])),
    ]);
    let mut cleaner = Builder::empty();
    cleaner
        .tags(PROSE.into_iter().chain(FORMULAS).collect())
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(attributes)
        .generic_attributes(HashSet::new())
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny)
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_value("a", "target", "_blank")
        .attribute_filter(|_, attribute, value| match attribute {
            "class" => own_classes(value),
            _ => Some(Cow::Borrowed(value)),
        });
    cleaner
});

/// Leaves only what the lists of this module name.
pub(super) fn clean(html: &str) -> String {
    CLEANER.clean(html).to_string()
}

/// The classes that colour code or name its language: no others of the page.
fn own_classes(value: &str) -> Option<Cow<'_, str>> {
    let is_own = |class: &&str| [code::LANGUAGE, code::COLOUR].iter().any(|prefix| class.starts_with(prefix));
    let own: Vec<_> = value.split_ascii_whitespace().filter(is_own).collect();
    (!own.is_empty()).then(|| own.join(" ").into())
}
