package serve

import "fmt"

// Command is the number of a command.
type Command uint64

// The commands (ServeProto::Command).
const (
	CommandQueryValidPaths Command = 1
	CommandQueryPathInfos  Command = 2
	CommandDumpStorePath   Command = 3
	CommandImportPaths     Command = 4
	CommandExportPaths     Command = 5 // Nix up to 2.31
	CommandBuildPaths      Command = 6
	CommandQueryClosure    Command = 7
	CommandBuildDerivation Command = 8
	CommandAddToStoreNar   Command = 9 // since WithNarSize
)

var commandNames = map[Command]string{
	CommandQueryValidPaths: "query valid paths", CommandQueryPathInfos: "query path infos", CommandDumpStorePath: "dump store path",
	CommandImportPaths: "import paths", CommandExportPaths: "export paths", CommandBuildPaths: "build paths",
	CommandQueryClosure: "query closure", CommandBuildDerivation: "build derivation", CommandAddToStoreNar: "add to store",
}

func (c Command) String() string {
	if name, ok := commandNames[c]; ok {
		return name
	}
	return fmt.Sprintf("command %d", uint64(c))
}
