//! Tables without lines, which fit the terminal.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::cli::words::member;

/// The narrowest terminal that tables are fitted to; some say that they have no width at all.
const LEAST_WIDTH: u16 = 40;

/// A column: its title, and what it shows of a row.
pub(crate) struct Column<'a> {
    title: &'a str,
    alignment: CellAlignment,
    cell: Box<dyn Fn(&Value) -> String + 'a>,
}

/// A column of text.
pub(crate) fn column<'a>(title: &'a str, cell: impl Fn(&Value) -> String + 'a) -> Column<'a> {
    Column { title, alignment: CellAlignment::Left, cell: Box::new(cell) }
}

/// A column of numbers, which stand below each other.
pub(crate) fn number<'a>(title: &'a str, cell: impl Fn(&Value) -> String + 'a) -> Column<'a> {
    Column { title, alignment: CellAlignment::Right, cell: Box::new(cell) }
}

/// A column of text, that of a member of the row.
pub(crate) fn text_of<'a>(title: &'a str, name: &'a str) -> Column<'a> {
    column(title, move |row| member(row, name))
}

/// A column of numbers, those of a member of the row.
pub(crate) fn number_of<'a>(title: &'a str, name: &'a str) -> Column<'a> {
    number(title, move |row| member(row, name))
}

/// A table with a row for each value. On a terminal it is as wide as that; elsewhere no cell is broken.
pub(crate) fn table(rows: &[Value], columns: &[Column<'_>]) -> String {
    let mut table = Table::new();
    let fits = table.width().is_some_and(|width| width >= LEAST_WIDTH);
    let arrangement = if fits { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.load_style(presets::NOTHING).set_content_arrangement(arrangement);
    table.set_header(columns.iter().map(|column| column.title));
    for row in rows {
        table.add_row(columns.iter().map(|column| (column.cell)(row)));
    }
    for (made, column) in table.column_iter_mut().zip(columns) {
        made.set_padding((0, 2)).set_cell_alignment(column.alignment);
    }
    let mut text = String::new();
    for line in table.lines() {
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_stand_below_each_other() {
        let rows = [json!({"a": "x", "b": 1}), json!({"a": "longer", "b": 100})];
        let shown = table(&rows, &[text_of("A", "a"), number_of("B", "b")]);
        assert_eq!(shown, "A         B\nx         1\nlonger  100\n");
    }
}
