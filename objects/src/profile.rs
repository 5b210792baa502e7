//! Profiles as the AWS tools keep them, in `~/.aws/credentials` and `~/.aws/config`: what they say becomes settings, where the
//! environment says nothing.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Keys of a profile, and the settings that they are.
const KEYS: [(&str, &str); 6] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("ca_bundle", "AWS_CA_BUNDLE"),
];
/// Credentials that lie elsewhere.
const ELSEWHERE: [&str; 5] =
    ["role_arn", "credential_process", "sso_session", "sso_start_url", "web_identity_token_file"];

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// What the profile adds to what `setting` knows: `AWS_PROFILE`'s, else `default`'s if there is one.
///
/// # Errors
/// When the profile that is asked for is nowhere, keeps its credentials elsewhere, or a file cannot be read.
pub(crate) fn settings(setting: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, String>, String> {
    let asked = setting("AWS_PROFILE").or_else(|| setting("AWS_DEFAULT_PROFILE"));
    let name = asked.as_deref().unwrap_or("default");
    let file = |said: &str, usual: &str| {
        let home = || Some(PathBuf::from(setting("HOME")?).join(".aws").join(usual));
        setting(said).map(PathBuf::from).or_else(home)
    };
    let files = [file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config")];
    let mut found: Option<BTreeMap<String, String>> = None;
    for file in files.iter().flatten() {
        let mut sections = read(file)?;
        // In the second kind of file all but the default have another word before their names; nobody minds it in the first.
        let section = sections.remove(&format!("profile {name}")).or_else(|| sections.remove(name));
        for (key, value) in section.into_iter().flatten() {
            found.get_or_insert_default().entry(key).or_insert(value);
        }
    }
    let Some(profile) = found else {
        let places: Vec<String> = files.iter().flatten().map(|f| f.display().to_string()).collect();
        return match asked {
            Some(name) => Err(format!("AWS_PROFILE is {name:?}, and no such profile is in {}", places.join(" or in "))),
            None => Ok(BTreeMap::new()),
        };
    };
    let own = setting("AWS_ACCESS_KEY_ID").is_some() || setting("AWS_SKIP_SIGNATURE").is_some();
    if let Some(key) = ELSEWHERE.iter().find(|key| profile.contains_key(**key))
        && !own
        && !profile.contains_key("aws_access_key_id")
    {
        return Err(format!(
            "the profile {name:?} has its credentials by {key}, which morph does not follow: put them into the environment, \
             eval \"$(aws configure export-credentials --profile {name} --format env)\""
        ));
    }
    let of_keys = |name: &str| matches!(name, "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN");
    let told = KEYS.iter().filter_map(|(key, name)| Some(((*name).to_owned(), profile.get(*key)?.clone())));
    // Credentials belong together: none of them is mixed with those of the environment.
    Ok(told.filter(|(name, _)| if of_keys(name) { !own } else { setting(name).is_none() }).collect())
}

/// The sections of an INI file; none when it is not there.
fn read(path: &Path) -> Result<Sections, String> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Sections::new()),
        text => text.map_err(|e| format!("{}: {e}", path.display()))?,
    };
    let mut sections = Sections::new();
    let mut section = None;
    for line in text.lines() {
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            section = Some(sections.entry(name).or_default());
        } else if let (Some(section), Some((key, value)), false) = (&mut section, line.split_once('='), nested) {
            section.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(credentials: &str, config: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(".aws")).unwrap();
            fs::write(dir.path().join(".aws/credentials"), credentials).unwrap();
            fs::write(dir.path().join(".aws/config"), config).unwrap();
            Self(dir)
        }

        fn settings(&self, environment: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
            settings(|name| match name {
                "HOME" => Some(self.0.path().display().to_string()),
                _ => environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()),
            })
        }
    }

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=C\n\n[ lab ]\naws_access_key_id = L\n\
                               aws_secret_access_key = M\naws_session_token = T\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\ns3 =\n    region = nested\n[profile lab]\nregion=eu-north-1\n\
                          endpoint_url = https://s3.lab\nca_bundle = /lab.pem\n[profile sso]\nsso_session = x\n";

    fn text(found: &BTreeMap<String, String>) -> String {
        found.iter().map(|(name, value)| format!("{name}={value} ")).collect()
    }

    #[test]
    fn the_default_profile_or_the_one_that_is_asked_for() {
        let home = Home::new(CREDENTIALS, CONFIG);
        let default = home.settings(&[]).unwrap();
        assert_eq!(text(&default), "AWS_ACCESS_KEY_ID=A AWS_REGION=eu-west-1 AWS_SECRET_ACCESS_KEY=B=C ");
        let lab = home.settings(&[("AWS_PROFILE", "lab")]).unwrap();
        assert_eq!(
            text(&lab),
            "AWS_ACCESS_KEY_ID=L AWS_CA_BUNDLE=/lab.pem AWS_ENDPOINT_URL=https://s3.lab AWS_REGION=eu-north-1 \
             AWS_SECRET_ACCESS_KEY=M AWS_SESSION_TOKEN=T "
        );
        let elsewhere = home.0.path().join("other");
        fs::write(&elsewhere, "[default]\naws_access_key_id = O\naws_secret_access_key = P").unwrap();
        let other = home.settings(&[("AWS_SHARED_CREDENTIALS_FILE", elsewhere.to_str().unwrap())]).unwrap();
        assert_eq!(other["AWS_ACCESS_KEY_ID"], "O");
    }

    #[test]
    fn the_environment_goes_first_and_credentials_are_never_mixed() {
        let home = Home::new(CREDENTIALS, CONFIG);
        let own = [("AWS_PROFILE", "lab"), ("AWS_ACCESS_KEY_ID", "E"), ("AWS_REGION", "us-west-2")];
        assert_eq!(text(&home.settings(&own).unwrap()), "AWS_CA_BUNDLE=/lab.pem AWS_ENDPOINT_URL=https://s3.lab ");
        let open = home.settings(&[("AWS_SKIP_SIGNATURE", "true")]).unwrap();
        assert_eq!(text(&open), "AWS_REGION=eu-west-1 ");
    }

    #[test]
    fn what_is_not_there_or_lies_elsewhere_is_said() {
        let home = Home::new(CREDENTIALS, CONFIG);
        let none = home.settings(&[("AWS_PROFILE", "labb")]).unwrap_err();
        assert!(
            none.contains("\"labb\"") && none.contains(".aws/credentials") && none.contains(".aws/config"),
            "{none}"
        );
        let sso = home.settings(&[("AWS_PROFILE", "sso")]).unwrap_err();
        assert!(sso.contains("sso_session") && sso.contains("export-credentials --profile sso"), "{sso}");
        assert!(Home::new("", "").settings(&[]).unwrap().is_empty());
        assert!(settings(|_| None).unwrap().is_empty(), "without a home, too");
    }
}
