use std::collections::BTreeSet;

use proptest::prelude::*;

use super::clean::{FORMULA_ATTRIBUTES, FORMULAS, PROSE};
use super::html;

/// The elements of HTML as a page would see them, with their attributes. It knows nothing of the
/// cleaner: every `<` outside of an attribute's value begins a tag.
fn elements(html: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut elements = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let mut attributes = Vec::new();
        let end = rest.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(rest.len());
        let name = rest[..end].trim_matches('/').to_owned();
        rest = &rest[end..];
        while let Some(inner) = rest.strip_prefix(|c: char| c.is_whitespace()) {
            let (attribute, value) = inner.split_once("=\"").expect("attributes have quoted values");
            let (value, after) = value.split_once('"').expect("an end of the value");
            attributes.push((attribute.to_owned(), value.to_owned()));
            rest = after;
        }
        elements.push((name, attributes));
    }
    elements
}

/// Fails for anything that could do more than be shown.
fn check_harmless(html: &str) {
    for (name, attributes) in elements(html) {
        assert!(PROSE.contains(&&*name) || FORMULAS.contains(&&*name), "<{name}> in {html}");
        for (attribute, value) in attributes {
            match attribute.as_str() {
                "href" => assert!(
                    ["http://", "https://", "mailto:"].iter().any(|scheme| value.starts_with(scheme)),
                    "{value} in {html}"
                ),
                "class" => assert!(
                    value.split(' ').all(|class| class.starts_with("hl-") || class.starts_with("language-")),
                    "{value} in {html}"
                ),
                "rel" | "target" | "start" => {}
                other => assert!(FORMULA_ATTRIBUTES.contains(&other), "{other} in {html}"),
            }
        }
    }
}

#[test]
fn prose_becomes_html() {
    for (text, wanted) in [
        ("Hello *there*, **you**", "<p>Hello <em>there</em>, <strong>you</strong></p>"),
        ("one\ntwo", "<p>one<br>\ntwo</p>"),
        ("~~gone~~ `code`", "<p><del>gone</del> <code>code</code></p>"),
        ("# One\n### Two", "<h2>One</h2>\n<h3>Two</h3>"),
        ("- [x] done\n- [ ] not", "<ul>\n<li>☑ done</li>\n<li>☐ not</li>\n</ul>"),
        ("3. three\n4. four", "<ol start=\"3\">\n<li>three</li>\n<li>four</li>\n</ol>"),
        (
            "| a | b |\n|---|---|\n| 1 \\| 2 | x<br>y |",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody>\n<tr><td>1 | 2</td><td>x<br>\ny</td></tr>\n</tbody></table>",
        ),
    ] {
        assert_eq!(html(text).trim(), wanted, "{text}");
        check_harmless(&html(text));
    }
}

#[test]
fn code_in_a_numbered_list_has_the_indentation_that_the_model_wrote() {
    let html = html("1. Run:\n\n   ```text\n   if x:\n       y\n   ```\n");
    assert!(html.contains("<code class=\"language-text\">if x:\n    y\n</code>"), "{html}");
}

#[test]
fn code_is_coloured_by_classes_up_to_a_limit() {
    let coloured = html("```rust\nfn main() {} // none\n```");
    let wanted = "<pre><code class=\"language-rust\"><span class=\"hl-keyword\">fn</span> <span class=\"hl-name\">main\
                  </span>() {} <span class=\"hl-comment\">// none\n</span></code></pre>";
    assert_eq!(coloured.trim(), wanted);
    check_harmless(&coloured);
    let unknown = html("```no-such-language\na < b\n```");
    assert!(unknown.contains("<code class=\"language-no-such-language\">a &lt; b\n</code>"), "{unknown}");
    for long in [
        format!("```rust\n{}```", "let x = 1;\n".repeat(10_000)),
        format!("```rust\n{}\n```", "x".repeat(5000)),
    ] {
        let long = html(&long);
        assert!(!long.contains("hl-"), "it is shown without colours");
        assert!(long.contains("language-rust"));
    }
}

#[test]
fn formulas_become_mathml_and_broken_ones_stay_latex() {
    for text in ["$x^2$", "\\(x^2\\)", "so \\( x^2 \\) it is"] {
        let html = html(text);
        assert!(html.contains("<math><msup><mi>x</mi><mn>2</mn></msup></math>"), "{text}: {html}");
    }
    for text in ["$$\\frac{1}{2}$$", "\\[\\frac{1}{2}\\]", "\\[\n\\frac{1}{2}\n\\]"] {
        let html = html(text);
        assert!(html.contains("<math display=\"block\">") && html.contains("<mfrac>"), "{text}: {html}");
        check_harmless(&html);
    }
    assert!(html("$\\frac{1}{$").contains("\\frac{1}{"), "an unfinished formula is shown as it is");
    for text in ["$5-$10", "from $5 to $10", "`\\(a\\)`", "```\n\\[a\\]\n```"] {
        assert!(!html(text).contains("<math"), "{text} is no formula: {}", html(text));
    }
    assert_eq!(html("`\\(a\\)`").trim(), "<p><code>\\(a\\)</code></p>");
}

#[test]
fn links_lead_out_of_the_page_and_only_to_the_web() {
    let own = "rel=\"noopener noreferrer nofollow\"";
    for text in [
        "[x](https://a.example/b?c=d&e)",
        "see https://a.example/b_c_d.",
        "<https://a.example>",
        "![x](https://a.example/y.png)",
    ] {
        let html = html(text);
        assert!(html.contains("href=\"https://a.example") && html.contains("target=\"_blank\""), "{html}");
        assert!(html.contains(own) && !html.contains("<img"), "{html}");
        check_harmless(&html);
    }
    for text in [
        "[x](javascript:alert(1))",
        "[x](data:text/html,y)",
        "[x](/v1/shutdown)",
        "[x](JaVaScRiPt:alert(1))",
        "[x](#/jobs)",
    ] {
        assert!(!html(text).contains("href"), "{text}: {}", html(text));
    }
}

#[test]
fn markup_is_text() {
    for text in [
        "<b>there</b>",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg><a xlink:href='javascript:alert(1)'>x</a></svg>",
        "a <style>* { display: none }</style> b",
        "<math><mtext><table><mglyph><style><img src onerror=alert(1)>",
    ] {
        let html = html(text);
        let elements: BTreeSet<_> = elements(&html).into_iter().map(|(name, _)| name).collect();
        assert!(elements.iter().all(|name| name == "p"), "{text}: {html}");
        let shown = html.replace("<p>", "").replace("</p>", "").replace("&lt;", "<").replace("&gt;", ">");
        assert_eq!(shown.trim(), text, "it is shown as it was written");
    }
}

/// Each of these once cost some renderer its stack or a time that grew with the square.
#[test]
fn endless_nesting_is_bounded() {
    let deep = |piece: &str| piece.repeat(100_000 / piece.len());
    for text in [
        deep("> "),
        deep("- "),
        deep("["),
        deep("*a "),
        deep("**a* "),
        deep("!["),
        deep("<b>"),
        deep("`"),
        deep("$x$ "),
        deep("\\("),
        format!("$${}$$", deep("{")),
        format!("$${}$$", "{".repeat(1900)),
        format!("$${}x{}$$", "{".repeat(900), "}".repeat(900)),
        format!("$${}x$$", "\\sqrt ".repeat(300)),
        format!("$${}x$$", "\\left(".repeat(300)),
        format!("$$x{}$$", "^{x".repeat(600)),
    ] {
        check_harmless(&html(&text));
    }
}

proptest! {
    /// Pieces of Markdown, markup and attacks, in any order.
    #[test]
    fn nothing_but_text_and_its_form_leaves_this_module(pieces in prop::collection::vec(piece(), 0..24)) {
        let html = html(&pieces.concat());
        check_harmless(&html);
        prop_assert_eq!(super::clean::clean(&html), html, "a second cleaning finds nothing");
    }
}

fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "<script>",
        "</script>",
        "<img src=x onerror=alert(1)>",
        "javascript:alert(1)",
        "[x](",
        ")",
        "![",
        "](",
        "<svg onload=alert(1)>",
        "<math>",
        "</math>",
        "<mtext>",
        "<style>",
        "<!--",
        "-->",
        "<![CDATA[",
        "\" onclick=\"",
        "'><iframe srcdoc=",
        "&lt;script&gt;",
        "&#x3c;",
        "```html\n",
        "```\n",
        "~~~",
        "`",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\\text{<script>}",
        "\\href{javascript:alert(1)}{x}",
        "\\frac{1}{2}",
        "\\unknown",
        "{",
        "}",
        "^",
        "# ",
        "> ",
        "- ",
        "1. ",
        "| a | b |\n|---|---|\n",
        "|",
        "\n",
        "\n\n",
        " ",
        "https://a.example/",
        "<https://a>",
        "<javascript:alert(1)>",
        "*",
        "**",
        "_",
        "~~",
        "<br>",
        "\u{0}",
        "\u{202e}",
        "word",
    ];
    prop_oneof![4 => prop::sample::select(KNOWN).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}
