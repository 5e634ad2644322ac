//! `sapwood push`

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::json;

use crate::{
    disk::regions::{self, StoppableStream},
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        events::{Event, Events},
        push::{self, Bucket, Input, Pipe, Place, PushOptions, Server},
        queue::{JobEvent, Queue},
        storage::s3::{S3Options, S3Storage},
    },
    format::{ingest::Status, library::LibraryPath, upload::SessionId},
    net::{auth::Token, location::Location},
    policy::upload,
};

use super::{
    args::PushArgs,
    exit::Exit,
    hints,
    network::{self, Refusal, location},
    output::Output,
    signals, units,
};

/// Of these files, as many as there are connections are sent.
const FILES_AT_ONCE: usize = 8;
/// No token is longer: it has to fit into the head of a request.
const TOKEN_BYTES_MAX: u64 = 4096;

pub async fn run(args: PushArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let store = network::store(args.no_store, store, output).await;
    let ready = checked(&args, store);
    let (context, work) = match ready {
        Ok(ready) => ready,
        Err(Refusal(exit, message)) => {
            let exit = output.refuse(exit, &message);
            return output.done(exit);
        }
    };
    let exit = match work {
        Work::List(place) => list(&context, &place, output).await,
        Work::Abort(place, id) => {
            let url = place.url().to_string();
            let mut tell = |event: Event| output.event(event);
            let aborted = push::abort(&context, &place, id, &mut tell);
            match signals::unless_stopped(aborted).await {
                Some(Ok(())) => {
                    output.result(&format!("{id} is given up"));
                    output.json_event("aborted", json!({ "session": id.to_string(), "url": url }));
                    output.results(Exit::Ok)
                }
                Some(Err(error)) => output.error(None, Some(&url), &error),
                None => output.fail(None, Some(&url), Exit::Again, hints::STOPPED),
            }
        }
        Work::Push(jobs) => {
            let queue = Queue {
                rounds: match jobs.len() {
                    1 => 1,
                    _ => args.network.tries,
                },
                patience: args.network.patience,
                at_once: FILES_AT_ONCE,
                connections: context.connections.clone(),
            };
            push_all(&context, &queue, &jobs, output).await
        }
    };
    output.done(exit)
}

/// What was typed, as the library takes it.
enum Work {
    Push(Vec<Job>),
    List(Place),
    Abort(Place, SessionId),
}

/// A source, and where it goes.
struct Job {
    /// `None`: standard input, in the first attempt.
    file: Option<PathBuf>,
    options: PushOptions,
}

impl Job {
    fn path(&self) -> String {
        self.options.path.display().to_string()
    }

    fn input(&self) -> Result<Input, Error> {
        match &self.file {
            Some(file) => Ok(Input::File(file.clone())),
            None => {
                let stream = StoppableStream::new(io::stdin()).map_err(Error::Output)?;
                let pipe: Pipe = Box::new(stream);
                Ok(Input::Pipe(pipe))
            }
        }
    }
}

fn checked(args: &PushArgs, store: StoreHandle) -> Result<(Context, Work), Refusal> {
    let (files, url) = split(args)?;
    let token = args.token.as_deref().map(token).transpose()?;
    if token.is_some() && !Token::is_safe_for(&url) {
        let message = format!("{url}: {}", hints::TOKEN_IN_THE_CLEAR);
        return Err(Refusal(Exit::Unsafe, message));
    }
    let is_in_s3 = url.is_in_s3();
    if !is_in_s3 && (args.s3.sse.is_some() || args.s3.attested) {
        return Err(Refusal::usage(hints::PUSH_S3_ALONE));
    }
    let context = network::context(&args.network, store)?;
    let (place, path) = match is_in_s3 {
        true => in_s3(args, &url, &context)?,
        false => {
            let path = url.decoded_path();
            let path = path.ok_or_else(|| Refusal::usage(hints::PUSH_URL_ENCODING))?;
            (Place::Server(Server { url, token }), path)
        }
    };
    let work = match (args.list, args.abort) {
        (true, _) => Work::List(place),
        (false, Some(id)) => Work::Abort(place, id),
        (false, None) => Work::Push(jobs(args, &files, &place, &path)?),
    };
    Ok((context, work))
}

/// The folder of a key in S3, and the rest of the key.
fn in_s3(args: &PushArgs, url: &Location, context: &Context) -> Result<(Place, String), Refusal> {
    let (bucket, key) = url.bucket_and_key().unwrap_or_default();
    let (folder, name) = key.rsplit_once('/').map_or_else(
        || (String::new(), key.as_str()),
        |(folder, name)| (format!("{folder}/"), name),
    );
    if folder
        .split('/')
        .any(|segment| segment == upload::STAGING_FOLDER)
    {
        let message = format!("{url}: {}", hints::PUSH_INTO_STAGING);
        return Err(Refusal(Exit::Unsafe, message));
    }
    if !name.is_empty() && args.name.is_some() {
        return Err(Refusal::usage(hints::PUSH_S3_NAME));
    }
    let folder = location(&format!("s3://{bucket}/{folder}"))?;
    let options = S3Options {
        sse: args.s3.sse.clone(),
        attested: args.s3.attested,
        ..S3Options::default()
    };
    let storage = S3Storage::new(context, &folder, options);
    let storage = storage.map_err(|cause| Refusal::usage(cause.to_string()))?;
    let storage = Arc::new(storage);
    Ok((Place::Storage(Bucket { folder, storage }), name.to_owned()))
}

/// The files, and the URL.
fn split(args: &PushArgs) -> Result<(Vec<&Path>, Location), Refusal> {
    let (url, files) = args.places.split_last().expect("clap requires one");
    let files: Vec<&Path> = files.iter().map(Path::new).collect();
    let takes_files = !args.list && args.abort.is_none();
    match files.is_empty() {
        true if takes_files => return Err(Refusal::usage(hints::PUSH_NEEDS_URL)),
        false if !takes_files => return Err(Refusal::usage(hints::PUSH_TAKES_NO_FILE)),
        _ => (),
    }
    let url = url.to_str().unwrap_or_default();
    let url = location(url)?;
    match url.has_query() {
        true => Err(Refusal::usage(format!(
            "{url}: {}",
            hints::PUSH_WITHOUT_QUERY
        ))),
        false => Ok((files, url)),
    }
}

/// A token, or the first line of the file with one. It is not repeated in a message.
fn token(typed: &str) -> Result<Token, Refusal> {
    let path = Path::new(typed);
    let text = match path.metadata() {
        Ok(file) if file.is_file() && file.len() <= TOKEN_BYTES_MAX => {
            let text = std::fs::read_to_string(path);
            text.map_err(|cause| Refusal::usage(format!("{}: {cause}", hints::BAD_TOKEN)))?
        }
        Ok(_) | Err(_) => typed.to_owned(),
    };
    let line = text.lines().next().unwrap_or_default().trim();
    Token::parse(line).ok_or_else(|| Refusal::usage(hints::BAD_TOKEN))
}

/// `folder`: the path of the URL at the place; it is that of an object, unless it is empty or ends with a slash.
fn jobs(
    args: &PushArgs,
    files: &[&Path],
    place: &Place,
    folder: &str,
) -> Result<Vec<Job>, Refusal> {
    let is_pipe = |file: &&Path| file.as_os_str() == "-";
    let several = files.len() > 1;
    let is_folder = folder.is_empty() || folder.ends_with('/');
    if several && (args.name.is_some() || !is_folder || args.session.is_some()) {
        return Err(Refusal::usage(hints::PUSH_SEVERAL));
    }
    if args.follow.follow && files.iter().any(is_pipe) {
        return Err(Refusal::usage(hints::PUSH_FOLLOWS_FILES));
    }
    if several && files.iter().any(is_pipe) {
        return Err(Refusal::usage(hints::PUSH_ONE_PIPE));
    }
    let mut jobs: Vec<Job> = Vec::new();
    for file in files {
        let own_name = || match is_pipe(file) {
            true => Err(Refusal::usage(hints::PUSH_PIPE_NAME)),
            false => file_name(file),
        };
        let name = match &args.name {
            Some(name) if is_folder => format!("{folder}{name}"),
            Some(name) => format!("{folder}/{name}"),
            None if is_folder => format!("{folder}{}", own_name()?),
            None => folder.to_owned(),
        };
        // A server has rules of its own.
        let checked = match place {
            Place::Server(_) => LibraryPath::new(&name),
            Place::Storage(_) => upload::name(&name),
        };
        let name = checked.ok_or_else(|| {
            let message = format!("{name:?} {}", hints::PUSH_NAME);
            Refusal(Exit::Unsafe, message)
        })?;
        if jobs.iter().any(|job| job.options.name == name) {
            let message = format!("{name}: {}", hints::PUSH_SAME_NAME);
            return Err(Refusal::usage(message));
        }
        let file = file.to_path_buf();
        let options = PushOptions {
            replace: args.replace,
            part_size: args.part_size,
            session: args.session,
            max_size: args.network.max_size,
            follow: args.follow.follow.then_some(args.follow.follow_idle),
            sent: Arc::new(AtomicU64::new(0)),
            ..PushOptions::new(place.clone(), name, file.clone())
        };
        let file = (!is_pipe(&file.as_path())).then_some(file);
        jobs.push(Job { file, options });
    }
    Ok(jobs)
}

fn file_name(file: &Path) -> Result<String, Refusal> {
    let name = file.file_name().and_then(OsStr::to_str);
    name.map(str::to_owned).ok_or_else(|| {
        let message = format!("{} {}", file.display(), hints::PUSH_NO_NAME);
        Refusal::usage(message)
    })
}

/// Runs all jobs, or until the user stops it; how they ended.
async fn push_all(context: &Context, queue: &Queue, jobs: &[Job], output: &mut Output) -> Exit {
    output.is_about_several(jobs.len() > 1);
    if jobs.len() > 1 {
        output.begin_total(jobs.len());
    }
    let output = Mutex::new(output);
    let sessions = Mutex::new(HashMap::new());
    let mut exits = vec![None; jobs.len()];
    let attempt = async |job: &Job| {
        let mut labelled = Labelled {
            output: &output,
            sessions: &sessions,
            path: job.path(),
        };
        push::push(context, job.input()?, &job.options, &mut labelled).await
    };
    let each = |index: usize, event| {
        let job: &Job = &jobs[index];
        let (path, url) = (job.path(), job.options.url().to_string());
        let mut output = output.lock();
        match event {
            JobEvent::Ended(Ok(_)) => exits[index] = Some(Exit::Ok),
            JobEvent::Ended(Err(error)) => {
                let exit = output.error(Some(&path), Some(&url), &error);
                exits[index] = Some(exit);
                let session = sessions.lock().get(&path).copied();
                if let (None, Some(id), Exit::Again) = (&job.file, session, exit) {
                    let message = hints::stream_goes_on(id, &url);
                    output.event(Event::Warning { message });
                }
            }
            JobEvent::Again { error, round, wait } => {
                output.about(Some(path));
                output.queued_again(&url, &error, round, wait);
                output.about(None);
            }
        }
    };
    let ended = signals::unless_stopped(queue.run(jobs, attempt, each)).await;
    if ended.is_none() {
        // A stream may give no bytes for long.
        regions::stop();
    }
    let mut output = output.lock();
    for (job, _) in jobs.iter().zip(&exits).filter(|(_, exit)| exit.is_none()) {
        let (path, url) = (job.path(), job.options.url().to_string());
        let session = sessions.lock().get(&path).copied();
        let message = match (&job.file, session) {
            (Some(_), _) => hints::PUSH_STOPPED.to_owned(),
            (None, Some(id)) => format!("{}; {}", hints::STOPPED, hints::stream_goes_on(id, &url)),
            (None, None) => hints::STOPPED.to_owned(),
        };
        output.fail(Some(&path), Some(&url), Exit::Again, &message);
    }
    for job in jobs {
        output.count_sent(job.options.sent.load(Ordering::Relaxed));
    }
    output.count_fetched(context.client.bytes_fetched());
    output.end_total();
    let exit = Exit::of_all(exits.into_iter().map(|exit| exit.unwrap_or(Exit::Again)));
    output.results(exit)
}

/// Labels the events of one job with its path.
struct Labelled<'q, 'o> {
    output: &'q Mutex<&'o mut Output>,
    /// The upload of each path.
    sessions: &'q Mutex<HashMap<String, SessionId>>,
    path: String,
}

impl Events for Labelled<'_, '_> {
    fn event(&mut self, event: Event) {
        if let Event::PushPlanned(planned) = &event {
            let path = self.path.clone();
            self.sessions.lock().insert(path, planned.session);
        }
        let mut output = self.output.lock();
        output.about(Some(self.path.clone()));
        output.event(event);
        output.about(None);
    }
}

/// Prints the uploads of the user: ID, state, length, when it was last used, name.
async fn list(context: &Context, place: &Place, output: &mut Output) -> Exit {
    let url = place.url().to_string();
    let mut tell = |event: Event| output.event(event);
    let listed = push::list(context, place, &mut tell);
    let listed = match signals::unless_stopped(listed).await {
        Some(Ok(listed)) => listed,
        Some(Err(error)) => return output.error(None, Some(&url), &error),
        None => return output.fail(None, Some(&url), Exit::Again, hints::STOPPED),
    };
    for status in &listed {
        let length = status
            .length
            .map_or_else(|| "-".to_owned(), units::human_bytes);
        let used = status.last_alive.as_deref().unwrap_or("-");
        output.result(&format!(
            "{}  {:<10}  {length:>9}  {used}  {}",
            status.id,
            status.state.name(),
            status.name
        ));
        output.json_event("upload", of_upload(status, place.url()));
    }
    output.results(Exit::Ok)
}

fn of_upload(status: &Status, place: &Location) -> serde_json::Value {
    let url = status.url.as_deref().and_then(|url| place.join(url));
    json!({
        "session": status.id.to_string(), "state": status.state.name(), "name": status.name, "bytes_total": status.length,
        "part_size": status.part_size, "last_alive": status.last_alive, "expires": status.expires, "url": url.map(|url| url.to_string()),
    })
}
