//! Who runs the program, and where.

/// The name of the user, or his number where he has no name.
pub fn user() -> String {
    let number = uzers::get_current_uid();
    match uzers::get_user_by_uid(number) {
        Some(user) => user.name().to_string_lossy().into_owned(),
        None => number.to_string(),
    }
}

/// The name of the machine.
pub fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
