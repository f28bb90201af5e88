package conf

// storeSettings are about the store and about who may do what with it.
var storeSettings = []Definition{
	{
		Name: "store", Type: TypeStore, Default: "auto", Wire: WireOverride,
		Doc: "The store to work with, as a URI. `auto` is the local store if it can be written, else the daemon if there " +
			"is one.",
		field: func(s *Settings) value { return plain{&s.Store} },
	},
	{
		Name: "allow-symlinked-store", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Accept a store directory that is a symbolic link or lies below one. What is built there may hold the link's " +
			"target in place of the store path.",
		field: func(s *Settings) value { return boolean{&s.AllowSymlinkedStore} },
	},
	{
		Name: "auto-optimise-store", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc:   "Replace files of equal content by hard links to one copy as objects come into the store.",
		field: func(s *Settings) value { return boolean{&s.AutoOptimiseStore} },
	},
	{
		Name: "fsync-metadata", Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc: "Flush changes of the store's database to disk before going on. Without it a crash of the machine can lose " +
			"the latest registrations.",
		field: func(s *Settings) value { return boolean{&s.FsyncMetadata} },
	},
	{
		Name: "fsync-store-paths", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Flush the files of a store object to disk before it is registered. Without it a crash of the machine can " +
			"leave a registered object with missing contents.",
		field: func(s *Settings) value { return boolean{&s.FsyncStorePaths} },
	},
	{
		Name: "sync-before-registering", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "Flush every file system of the machine before an object is registered. `fsync-store-paths` gives the same " +
			"safety in less time.",
		field: func(s *Settings) value { return boolean{&s.SyncBeforeRegistering} },
	},
	{
		Name: "use-sqlite-wal", Type: TypeBool, Wire: WireOverride,
		DefaultText: "`true`, but `false` on the first Windows Subsystem for Linux", defaultFor: defaultSQLiteWAL,
		Doc: "Use SQLite's write-ahead log for the store's database. Every program that opens the store must agree; switch " +
			"it off only on file systems that can't share memory, such as NFS.",
		field: func(s *Settings) value { return boolean{&s.UseSQLiteWAL} },
	},
	{
		Name: "ignored-acls", Type: TypeSet, Default: "security.csm security.selinux system.nfs4_acl", Wire: WireOverride,
		Doc: "Extended attributes that may stay on files in the store, because not even root can remove them. All others " +
			"are removed.",
		field: func(s *Settings) value { return set{&s.IgnoredACLs} },
	},
	{
		Name: "keep-build-log", Aliases: []string{"build-keep-log"}, Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc:   "Keep what builders print, below `drvs` in the log directory.",
		field: func(s *Settings) value { return boolean{&s.KeepBuildLog} },
	},
	{
		Name: "compress-build-log", Aliases: []string{"build-compress-log"}, Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc:   "Compress the logs that are kept, with bzip2.",
		field: func(s *Settings) value { return boolean{&s.CompressBuildLog} },
	},
	{
		Name: "keep-derivations", Aliases: []string{"gc-keep-derivations"}, Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc:   "The garbage collector keeps the derivation that a live object was built from.",
		field: func(s *Settings) value { return boolean{&s.KeepDerivations} },
	},
	{
		Name: "keep-outputs", Aliases: []string{"gc-keep-outputs"}, Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc: "The garbage collector keeps the outputs of live derivations. Together with `keep-derivations` this keeps " +
			"what was needed to build what is live.",
		field: func(s *Settings) value { return boolean{&s.KeepOutputs} },
	},
	{
		Name: "gc-reserved-space", Type: TypeSize, Default: "8388608", Wire: WireOverride,
		Doc: "The size of a file that is kept in the state directory and deleted when a collection starts, so that the " +
			"database can be written on a full disk.",
		field: func(s *Settings) value { return number[Size]{&s.GCReservedSpace} },
	},
	{
		Name: "min-free", Type: TypeSize, Default: "0", Wire: WireOverride,
		Doc:   "Collect garbage, while builds run, when fewer bytes than this are free on the store's disk; 0 never does.",
		field: func(s *Settings) value { return number[Size]{&s.MinFree} },
	},
	{
		Name: "max-free", Type: TypeSize, Default: "9223372036854775807", Wire: WireOverride,
		Doc:   "A collection that `min-free` started ends when this many bytes are free.",
		field: func(s *Settings) value { return number[Size]{&s.MaxFree} },
	},
	{
		Name: "min-free-check-interval", Type: TypeSeconds, Default: "5", Wire: WireOverride,
		Doc:   "How many seconds at least lie between two looks at the free space for `min-free`.",
		field: func(s *Settings) value { return seconds(&s.MinFreeCheckInterval) },
	},

	{
		Name: "require-sigs", Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc: "Take objects from other stores only if a trusted key signed them. Content-addressed objects need no " +
			"signature: their paths prove what they are.",
		field: func(s *Settings) value { return boolean{&s.RequireSigs} },
	},
	{
		Name: "trusted-public-keys", Aliases: []string{"binary-cache-public-keys"}, Type: TypeList, Wire: WireOverride,
		Default: "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
		Doc: "Public keys, as 'name:base64', whose signatures on store objects are trusted. The public halves of " +
			"`secret-key-files` are trusted as well.",
		field: func(s *Settings) value { return list{&s.TrustedPublicKeys} },
	},
	{
		Name: "secret-key-files", Type: TypeList, Wire: WireOverride,
		Doc:   "Files with secret keys. What is built here is signed with each of them.",
		field: func(s *Settings) value { return list{&s.SecretKeyFiles} },
	},
	{
		Name: "allowed-users", Type: TypeList, Default: "*",
		Doc: "Who may connect to the daemon: user names, `@group`, or `*` for everybody. Trusted users always may. Build " +
			"users never may.",
		field: func(s *Settings) value { return list{&s.AllowedUsers} },
	},
	{
		Name: "trusted-users", Type: TypeList, Default: "root",
		Doc: "Whom the daemon trusts: user names, `@group`, or `*`. They may change most settings for their connections " +
			"and add objects without signatures; with that they can become root.",
		field: func(s *Settings) value { return list{&s.TrustedUsers} },
	},
}
