package rpc

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// reflectionService tells what services and messages there are, for tools that have no copy
// of the definitions: grpc.reflection.v1.ServerReflection, without extensions, of which there
// are none. The library's own brings descriptors of descriptors with it, whose initialisation
// every start of the program would pay for, whatever it is to do.
type reflectionService struct {
	reflectionpb.UnimplementedServerReflectionServer
	g *grpc.Server
}

// ServerReflectionInfo implements reflectionpb.ServerReflectionServer.
func (s *reflectionService) ServerReflectionInfo(stream reflectionpb.ServerReflection_ServerReflectionInfoServer) error {
	told := make(map[string]bool) // files that this client has
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		resp := &reflectionpb.ServerReflectionResponse{ValidHost: req.GetHost(), OriginalRequest: req}
		if err := s.answer(req, resp, told); err != nil {
			resp.MessageResponse = &reflectionpb.ServerReflectionResponse_ErrorResponse{ErrorResponse: &reflectionpb.ErrorResponse{
				ErrorCode: int32(codes.NotFound), ErrorMessage: err.Error(),
			}}
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// answer sets what answers a request. An error says that there is no such thing.
func (s *reflectionService) answer(req *reflectionpb.ServerReflectionRequest, resp *reflectionpb.ServerReflectionResponse, told map[string]bool) error {
	switch r := req.MessageRequest.(type) {
	case *reflectionpb.ServerReflectionRequest_ListServices:
		list := new(reflectionpb.ListServiceResponse)
		for name := range s.g.GetServiceInfo() {
			list.Service = append(list.Service, &reflectionpb.ServiceResponse{Name: name})
		}
		slices.SortFunc(list.Service, func(a, b *reflectionpb.ServiceResponse) int { return strings.Compare(a.Name, b.Name) })
		resp.MessageResponse = &reflectionpb.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}
		return nil
	case *reflectionpb.ServerReflectionRequest_FileByFilename:
		file, err := protoregistry.GlobalFiles.FindFileByPath(r.FileByFilename)
		if err != nil {
			return err
		}
		return answerFiles(file, resp, told)
	case *reflectionpb.ServerReflectionRequest_FileContainingSymbol:
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(r.FileContainingSymbol))
		if err != nil {
			return err
		}
		return answerFiles(d.ParentFile(), resp, told)
	case *reflectionpb.ServerReflectionRequest_AllExtensionNumbersOfType:
		if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(r.AllExtensionNumbersOfType)); err != nil {
			return err
		}
		resp.MessageResponse = &reflectionpb.ServerReflectionResponse_AllExtensionNumbersResponse{
			AllExtensionNumbersResponse: &reflectionpb.ExtensionNumberResponse{BaseTypeName: r.AllExtensionNumbersOfType},
		}
		return nil
	}
	return protoregistry.NotFound
}

// answerFiles answers with a file and with those that it needs, as far as they were not told.
func answerFiles(file protoreflect.FileDescriptor, resp *reflectionpb.ServerReflectionResponse, told map[string]bool) error {
	answer := new(reflectionpb.FileDescriptorResponse)
	queue := []protoreflect.FileDescriptor{file}
	for len(queue) > 0 {
		f := queue[0]
		queue = queue[1:]
		if told[f.Path()] && f != file {
			continue
		}
		raw, err := rawDescriptor(f)
		if err != nil {
			return err
		}
		told[f.Path()] = true
		answer.FileDescriptorProto = append(answer.FileDescriptorProto, raw)
		for i := range f.Imports().Len() {
			queue = append(queue, f.Imports().Get(i).FileDescriptor)
		}
	}
	resp.MessageResponse = &reflectionpb.ServerReflectionResponse_FileDescriptorResponse{FileDescriptorResponse: answer}
	return nil
}

// rawDescriptor gives the FileDescriptorProto of a file, as its generated code has it: any
// message in it can tell.
func rawDescriptor(f protoreflect.FileDescriptor) ([]byte, error) {
	if f.Messages().Len() == 0 {
		return nil, fmt.Errorf("%s has no message", f.Path())
	}
	m, err := protoregistry.GlobalTypes.FindMessageByName(f.Messages().Get(0).FullName())
	if err != nil {
		return nil, err
	}
	described, ok := m.Zero().Interface().(interface{ Descriptor() ([]byte, []int) })
	if !ok {
		return nil, fmt.Errorf("%s does not tell its descriptor", f.Path())
	}
	packed, _ := described.Descriptor()
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
