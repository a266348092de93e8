package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errInterrupted says that the ruleset changed while it was read.
var errInterrupted = errors.New("the ruleset changed while it was read")

// dumpTries bounds how often a dump that was interrupted begins anew.
const dumpTries = 10

// dump asks for all objects of a kind and hands the attributes of each to the
// function. Where the ruleset changes meanwhile it begins anew, after a call of
// restart.
func (s *socket) dump(typ uint16, family byte, attrs []attr, restart func(), each func(*netlink.AttributeDecoder) error) error {
	var err error
	for range dumpTries {
		restart()
		err = s.dumpOnce(typ, family, attrs, func(object []byte) error {
			d, err := netlink.NewAttributeDecoder(object)
			if err != nil {
				return err
			}
			d.ByteOrder = binary.BigEndian
			return each(d)
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return err
}

// list returns the attributes of all objects of a kind.
func (s *socket) list(typ uint16, family byte, attrs ...attr) (objects [][]byte, err error) {
	for range dumpTries {
		objects = nil
		err = s.dumpOnce(typ, family, attrs, func(object []byte) error {
			objects = append(objects, object)
			return nil
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return objects, err
}

func (s *socket) dumpOnce(typ uint16, family byte, attrs []attr, each func(object []byte) error) error {
	p := appendHeader(nil, unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_DUMP, 1, family, 0)
	for _, a := range attrs {
		p = a.append(p)
	}
	binary.NativeEndian.PutUint32(p, uint32(len(p)))
	if err := s.send(p); err != nil {
		return err
	}
	interrupted := false
	var failed error // the rest is read all the same, or it would answer the next question
	for {
		messages, err := s.receive()
		if err != nil {
			return fmt.Errorf("reading a list from the kernel: %w", err)
		}
		if len(messages) == 0 {
			return errors.New("the kernel's list has no end")
		}
		for _, m := range messages {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			switch {
			case m.Header.Type == netlink.Error, m.Header.Type == netlink.Done:
				if code := errorCode(m); code != 0 {
					return code
				}
				if failed == nil && interrupted {
					failed = errInterrupted
				}
				return failed
			case failed != nil || len(m.Data) < 4:
				continue
			}
			failed = each(m.Data[4:])
		}
	}
}

// errorCode returns the error number that a message carries, 0 for none.
func errorCode(m netlink.Message) unix.Errno {
	if len(m.Data) < 4 {
		return 0
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
}
