//! The database's roles: who owns the schema, who works with it, who only looks.

use crate::model::error::StoreError;
/// The roles as SQL, with `{owner}`, `{component}` and `{reader}` for their names.
const ROLES: &str = include_str!("roles.sql");
/// What a database that only we use takes from everybody, in front of the last line.
const PRIVATE: &str = include_str!("roles_private.sql");
const PRIVATE_MARK: &str = "-- {private}\n";

/// A name is cut at 63 bytes by the server, and two names might become one.
const PREFIX_BYTES_MAX: usize = 40;

/// The names of the three roles, and whether the database is ours alone.
#[derive(Debug, Clone)]
pub struct RoleNames {
    prefix: String,
    is_shared: bool,
    /// Users who get the component's rights.
    members: Vec<String>,
}

impl RoleNames {
    /// `PREFIX_owner`, `PREFIX_component` and `PREFIX_reader`. In a shared database everybody keeps the right to connect.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] unless the prefix is 1 to 40 lower-case letters, digits and underscores and begins with a letter.
    pub fn new(prefix: &str, is_shared: bool) -> Result<Self, StoreError> {
        let is_word = prefix.starts_with(|c: char| c.is_ascii_lowercase())
            && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_word || prefix.len() > PREFIX_BYTES_MAX || prefix.starts_with("pg_") {
            return Err(StoreError::Invalid(format!(
                "{prefix:?} is no prefix for roles: give 1 to {PREFIX_BYTES_MAX} lower-case letters, digits and underscores, \
                 first a letter, not pg_"
            )));
        }
        Ok(Self { prefix: prefix.to_owned(), is_shared, members: Vec::new() })
    }

    /// The same, and users who are there already and get the component's rights.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a name of other characters than ASCII letters, digits, underscores and hyphens.
    pub fn with_members(mut self, members: Vec<String>) -> Result<Self, StoreError> {
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        if let Some(bad) = members.iter().find(|name| !is_name(name)) {
            return Err(StoreError::Invalid(format!(
                "{bad:?} is no user to be given rights: its name may have ASCII letters, digits, _ and -"
            )));
        }
        self.members = members;
        Ok(self)
    }

    /// The statements that create the roles and grant each what it needs, for the database that they are run in; as one transaction.
    #[must_use]
    pub fn sql(&self) -> String {
        let private = if self.is_shared { "" } else { PRIVATE };
        let grants: String =
            self.members.iter().map(|name| format!("GRANT {{component}} TO \"{name}\";\n")).collect();
        let all = ROLES.replace(PRIVATE_MARK, &format!("{private}{grants}"));
        ["owner", "component", "reader"]
            .iter()
            .fold(all, |sql, role| sql.replace(&format!("{{{role}}}"), &format!("{}_{role}", self.prefix)))
    }
}
