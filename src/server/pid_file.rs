//! F11 · The file that has the number of this process, for supervisors that want one.

use std::fs;

/// It is there as long as this is, unless another process has written its own number into it meanwhile.
pub struct PidFile {
    path: String,
    text: String,
}

impl PidFile {
    /// `None` if `path` is empty. The error is a sentence for the operator.
    pub fn write(path: &str) -> Result<Option<PidFile>, String> {
        if path.is_empty() {
            return Ok(None);
        }
        let (path, text) = (path.to_owned(), format!("{}\n", std::process::id()));
        fs::write(&path, &text).map_err(|error| format!("pid_file: cannot write to {path}: {error}"))?;
        Ok(Some(PidFile { path, text }))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            // What is left behind is told from a process by its number.
            let _ = fs::remove_file(&self.path);
        }
    }
}
