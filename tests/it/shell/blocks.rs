//! The fenced blocks of the documents that are for a shell.

/// A fenced block.
pub(super) struct Block {
    /// Where it begins in its document, counted from 1.
    pub(super) line: usize,
    /// What stands behind its fence.
    info: String,
    pub(super) lines: Vec<String>,
}

impl Block {
    /// Whether a reader may take it for something to type: a script, or what a terminal shows.
    pub(super) fn is_for_a_shell(&self) -> bool {
        let language = self.info.split(' ').next().unwrap_or_default();
        let is_session = self.lines.iter().any(|line| line.starts_with("$ "));
        ["sh", "bash", "shell", "console"].contains(&language) || is_session
    }

    /// Whether it is marked as one that runs.
    pub(super) fn is_run(&self) -> bool {
        ["sh run", "console run"].contains(&&*self.info)
    }

    /// Its commands, each with the line where it begins and with what it is said to show; a script is one command, and
    /// says nothing of that.
    pub(super) fn commands(&self) -> Vec<Command> {
        if self.info != "console run" {
            return vec![Command { line: self.line, text: self.lines.join("\n"), shows: None }];
        }
        let mut commands: Vec<Command> = Vec::new();
        for (number, line) in (self.line + 1..).zip(&self.lines) {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(text), _) => {
                    commands.push(Command { line: number, text: text.to_owned(), shows: Some(Vec::new()) });
                }
                (None, Some(last)) if last.text.ends_with('\\') => {
                    last.text.push('\n');
                    last.text.push_str(line);
                }
                (None, Some(last)) => last.shows.get_or_insert_default().push(line.clone()),
                (None, None) => panic!("line {number}: nothing was typed before '{line}'"),
            }
        }
        commands
    }
}

/// What is typed, and what is said to come of it.
pub(super) struct Command {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) shows: Option<Vec<String>>,
}

/// The fenced blocks of a document.
pub(super) fn blocks(document: &str) -> Vec<Block> {
    let mut lines = (1..).zip(document.lines());
    let mut blocks = Vec::new();
    while let Some((line, text)) = lines.next() {
        if let Some(info) = text.trim().strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, text)| text).take_while(|text| text.trim() != "```");
            let lines = inside.map(str::to_owned).collect();
            blocks.push(Block { line, info: info.to_owned(), lines });
        }
    }
    blocks
}
