/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules by which output of the primary may leave, one by one: scripts, see
 * colo-match-script.h.  A script proves that what is written there happens, and
 * that nothing else does.
 */

#include "qemu/osdep.h"
#include "colo-match-script.h"
#include "colo-test-packet.h"

static const Script scripts[] = {
    /* Epochs and sessions */
    { "session/open", NULL,
      "p d1 > d1\n"
      "p 0+10a5 > 0+10a5\n"
      "P 3\n"                               /* late, of an earlier session */
      "p d2 > d2\n"
      "C 4\n" },
    { "session/armed", NULL,
      "A\n"
      "p d1 > d1\n"
      "P 0\n"
      "p d2\n"
      "p 0+10a5\n"
      "O > d2 0+10a5\n"
      "p d3 > d3\n"
      "P 1\n"
      "p d4 > d4\n"
      "A\n"
      "P 0\n"
      "p d5\n"
      "A > d5\n" },
    { "epoch/commit", NULL,
      "A\nP 0\n"
      "p d1\n"
      "P 1\n"
      "p d2\n"
      "C 1 > d1\n"
      "C 1\n"
      "P 2\n"
      "p d3\n"
      "C 3 > d2 d3\n"                       /* before its record */
      "p d4 > d4\n"
      "p f5.0/3 > f5.0\n"
      "p 0+10a5 > 0+10a5\n"
      "P 3\n"
      "p d6\n"
      "P 2\n"                               /* does not go back */
      "p d7\n"
      "C 3\n"
      "C 4 > d6 d7\n" },
    { "epoch/secondary-ahead", NULL,
      "A\nP 0\nS 0\n"
      "p d1\n"
      "p 100+10a5\n"
      "S 1\n"
      "s d1\n"
      "s 100+10a5\n"                        /* not of the same epoch */
      "P 1\n"
      "p d1\n"
      "C 1 > d1 d1 100+10a5\n" },
    { "epoch/secondary-behind", NULL,
      "A\nP 0\nS 0\n"
      "P 1\n"
      "p d1\n"
      "s d1\n"
      "s d2\n"
      "C 1\n"                               /* what it said is void */
      "s d1\n"
      "S 1\n"
      "s d1 > d1\n" },
    { "epoch/first-word", NULL,
      "A\nP 0\n"
      "p d1\n"
      "s d1\n"                              /* of which epoch? */
      "S 0\n"
      "s d1 > d1\n" },
    { "epoch/lost", NULL,
      BEGIN
      "s d1\n"
      "s 0+5a5\n"
      "L\n"
      "p d1 > !T\n"                        /* it will not say that soon */
      "p 0+5a5\n"
      "s d1\n"
      "S 0 > -T\n"
      "s d1 > d1\n"
      "s 0+5a5 > 0+5a5\n" },
    { "epoch/back", NULL,
      BEGIN
      "p d1\n"
      "L > !T\n"
      "B > -T\n"
      "p d2\n"
      "s d1\n"                             /* not known of which epoch */
      "S 0\n"
      "T 99\n"
      "T 1 > !T\n"
      "P 1\n"
      "L\n"
      "p i3\n"
      "C 1 > d1 d2\n"
      "T 999\n"
      "T 1 > !T\n"
      "O > i3\n"
      "A\nP 0\n"                          /* another session, with another */
      "p d4\n"
      "S 0\n"
      "s d4 > d4\n" },
    { "epoch/diverged-ends", NULL,
      BEGIN
      "p d1\n"
      "s d2\n"
      "T 10 > !M\n"
      "p d3\n"
      "s d3\n"
      "P 1\n"
      "p d4\n"
      "p d5@1\n"
      "s d6@1\n"                            /* not the epoch of d5 */
      "C 1 > d1 d3\n"
      "S 1\n"
      "s d4 > d4\n"
      "s d7@1\n"
      "T 10 > !M\n" },
    { "epoch/diverged-again", NULL,
      /* A commit of an earlier cut does not help what differs now */
      "A\nP 0\nP 1\nS 1\n"
      "p d1\n"
      "s d2\n"
      "T 10 > !M\n"
      "p d3@1\n"
      "s d4@1\n"
      "C 1\n"
      "C 2 > d1 d3@1\n" },

    /* Datagrams */
    { "datagram/equal", NULL,
      BEGIN
      "p d1\n"
      "p d2\n"
      "p d3@1\n"
      "s d1 > d1\n"
      "s d3@1 > d3@1\n"
      "s d2 > d2\n"
      "s d4\n"
      "p d4 > d4\n"
      "p r1\n"
      "s r1 > r1\n"
      "p r1\n"
      "s r2\n"
      "T 10 > !M\n"
      "C 1 > r1\n" },
    { "datagram/twice", NULL,
      BEGIN
      "p d1\n"
      "p d1\n"
      "s d1 > d1\n"
      "s d1 > d1\n"
      "p d1\n" },
    { "datagram/swapped", NULL,
      BEGIN
      "p d1\n"
      "p d2\n"
      "p d3\n"
      "s d3\n"
      "s d2\n"
      "s d1 > d1 d2 d3\n" },
    { "datagram/swapped-ahead", NULL,
      /* The secondary is ahead */
      BEGIN
      "p d1\n"
      "s d2\n"
      "T 9\n"
      "p d2\n"
      "T 50\n"
      "s d1 > d1 d2\n"
      "s d4\n"
      "s d5\n"
      "p d3\n"
      "T 9\n"
      "s d3 > d3\n"
      "T 1\n"
      "p d5 > d5\n"
      "p d4 > d4\n" },
    { "datagram/picked-ports", NULL,
      /* Each kernel picked a port: that is asked for at once */
      BEGIN
      "p d1@20001\n"
      "T 3\n"
      "s d2@20002 > !M\n"
      "P 1\n"
      "C 1 > d1@20001\n"
      "S 1\n"
      /* The secondary is ahead */
      "s d3@20003\n"
      "p d4@20004 > !M\n"
      "p d5@20004\n" },
    { "datagram/picked-ports-known", NULL,
      /* They have agreed in one of the two, so it may say more */
      BEGIN
      "p d9@20001\n"
      "s d9@20001 > d9@20001\n"
      "p d1@20001\n"
      "s d2@20002\n"
      "T 9\n"
      "T 1 > !M\n" },
    { "datagram/picked-ports-same", NULL,
      /* Two questions, in another order; the server's port is another one's */
      BEGIN
      "p d8@20001\n"
      "s d8@20001 > d8@20001\n"
      "p d9@20002\n"
      "s d9@20002 > d9@20002\n"
      "p d1@20001\n"
      "s d2@20002\n"
      "T 5\n"
      "p d2@20002 > d2@20002\n"
      "T 5\n"
      "T 40\n"
      "s d1@20001 > d1@20001\n"
      "p d1@1\n"
      "s d2@2\n"
      "T 99\n"
      "T 1 > !T\n"
      "T 899\n"
      "T 1 > !M\n" },
    { "datagram/picked-ports-void", NULL,
      /* What the secondary said in another epoch is not a reason */
      BEGIN
      "s d2@20002\n"
      "P 1\n"
      "C 1\n"
      "S 1\n"
      "p d1@20001\n"
      "T 99\n"
      "T 1 > !T\n" },
    { "datagram/swapped-on-and-on", NULL,
      /* Each pair has its own time */
      BEGIN
      "p d1\n"
      "s d2\n"
      "T 6\n"
      "s d4\n"
      "s d1 > d1\n"
      "p d3\n"
      "T 6\n"
      "p d2\n"
      "s d3 > d3 d2\n"
      "p d4 > d4\n"
      "p d5\n"
      "s d6\n"
      "T 9\n"
      "p d7\n"
      "s d7\n"
      "T 1 > !M\n" },
    { "datagram/mismatch", NULL,
      BEGIN
      "s d1\n"
      "s d2\n"
      "p d2 > d2\n"
      "p d3\n"
      "T 10 > !M\n"
      "s d3\n"
      "p d4@1\n"
      "s d5@1\n"
      "T 10\n"                             /* asked for already */
      "C 1 > d3 d4@1\n" },
    { "datagram/fragments", NULL,
      BEGIN
      "p f1.0/3\n"
      "p f1.2/3\n"
      "p f1.1/3\n"
      "s f1.0/3\n"
      "s f1.1/3\n"
      "s f1.2/3 > f1.0 f1.168 f1.88\n"
      "s f2.0/2\n"
      "s f2.1/2\n"
      "p f2.0/2\n"
      "p f2.1/2 > f2.0 f2.128\n" },
    { "datagram/fragments-differ", NULL,
      BEGIN
      "p f1.0/2\n"
      "p f1.1/2\n"
      "s f2.0/2\n"
      "s f2.1/2\n"
      "T 10 > !M\n"
      "p f3.0/2\n"
      "C 1 > f3.0 f1.0 f1.128\n" },
    { "datagram/fragments-cut", NULL,
      /* On both sides of a cut: never whole */
      BEGIN
      "p f1.0/2\n"
      "P 1\n"
      "p f1.1/2\n"
      "s f1.0/2\n"
      "s f1.1/2\n"
      "C 1 > f1.0\n"
      "S 1\n"
      "s f1.1/2\n"
      "T 99\n"
      "T 1 > !T\n"
      "C 2 > f1.128\n" },

    /* TCP data */
    { "tcp/equal", NULL,
      MIDDLE
      "p 1000+10a50\n"
      "s 1000+10a50 > 1000+10a50\n"
      "s 1010+10a50\n"
      "p P1010+10a50 > P1010+10a50\n" },
    { "tcp/segmentation", NULL,
      MIDDLE
      "p 1000+300a50\n"
      "p 1300+300a50\n"
      "s 1000+100a50\n"
      "s 1100+400a50 > 1000+300a50\n"
      "s 1500+100a50 > 1300+300a50\n"
      "s 1600+1000a50\n"
      "p 1600+400a50 > 1600+400a50\n"
      "p 2000+600a50 > 2000+600a50\n" },
    { "tcp/front", NULL,
      MIDDLE
      "p FP1000+5000a50\n"
      "s 1000+535a50\n"
      "s 1535+465a50 > 1000+1000a50\n"
      "s 2000+1448a50 > 2000+1448a50\n"
      "s 3448+500a50\n"
      "s 3948+2052a50\n"                    /* all but FIN */
      "s F6000+0a50 > FP3448+2552a50\n" },
    { "tcp/front-small-mss", NULL,
      MIDDLE
      "s 1000+536a50\n"
      "p 1000+3000a50 > 1000+536a50\n"
      "s 1536+500a50\n"
      "s 2036+36a50 > 1536+536a50\n" },
    { "tcp/secondary-swapped", NULL,
      MIDDLE
      "p 1000+300a50\n"
      "s 1200+100a50\n"
      "s 1050+200a50\n"
      "s 1000+60a50 > 1000+300a50\n"
      "s 1300+10a50\n"
      "s 1320+10a50\n"
      "s 1290+100a50\n"
      "p 1300+90a50 > 1300+90a50\n" },
    { "tcp/primary-swapped", NULL,
      MIDDLE
      "p 1100+100a50\n"
      "p 1200+100a50\n"
      "s 1000+300a50\n"
      "p 1000+100a50 > 1000+100a50 1100+100a50 1200+100a50\n" },
    { "tcp/different", NULL,
      MIDDLE
      "p 1000+100a50\n"
      "s 1000+50a50\n"
      "s 1050+50a50x49 > !M\n"
      "p 1100+10a50\n"
      "s 1100+10a50\n"
      "p 900+100a50\n"                      /* not known to be out */
      "p 999+1a50 > 999+1a50\n"
      "P 1\n"
      "p 1110+10a50\n"
      "C 1 > 1000+100a50 1100+10a50 900+100a50\n"
      "S 1\n"
      "s 1110+10a50 > 1110+10a50\n" },
    { "tcp/longer", NULL,
      MIDDLE
      "s F1000+100a50\n"
      "p 1000+100a50 > 1000+100a50\n"
      "p 1100+10a50 > !M\n" },
    { "tcp/shorter", NULL,
      MIDDLE
      "p F1000+100a50\n"
      "s 1000+101a50 > !M\n"
      "C 1 > F1000+100a50\n" },
    { "tcp/repeated", NULL,
      MIDDLE
      "p 1000+100a50\n"
      "s 1000+100a50 > 1000+100a50\n"
      "p 1100+10a50\n"                      /* may be overtaken */
      "p 1000+100a50 > 1000+100a50\n"
      "p 1050+20a50 > 1050+20a50\n"
      "p 1099+1a50 > 1099+1a50\n"
      "s 1000+100a50\n"
      "p 1050+100a50\n"                     /* half of it is new */
      "s 1100+50a50 > 1100+10a50 1050+100a50\n" },
    { "tcp/wrap", NULL,
      BEGIN
      "p 4294967000+200a4294967290\n"
      "s 4294967000+200a4294967290 > 4294967000+200a4294967290\n"
      "p 4294967200+2000a10\n"
      "s 4294967200+50a10\n"
      "s 454+1450a20\n"
      "s 4294967250+1000a30 > 4294967200+2000a10\n"
      "p 4294967200+96a30 > 4294967200+96a30\n"
      "s 1904+0a31\n"
      "p 1904+0a32 > 1904+0a31\n"
      "s 1904+0a32 > 1904+0a32\n" },
    { "tcp/urgent", NULL,
      MIDDLE
      "p U1000+10a50\n"
      "s U1000+10a50\n"
      "s 1000+10a50\n"
      "C 1 > U1000+10a50\n" },
    { "tcp/signed", NULL,
      /* TCP MD5, TCP-AO, Multipath TCP: as it is, and not before the commit */
      MIDDLE
      "p 1000+100a90o19\n"
      "s 1000+100a90o19\n"
      "s 1000+100a90\n"
      "p 1100+0a90o29\n"
      "s 1100+0a90o29\n"
      "p 1100+3000a90v7o30\n"
      "s 1100+1500a90o30\n"
      "p S9000+0a90o30@1\n"
      "s S4444+0a90o30@1\n"
      "P 1\n"
      "C 1 > 1000+100a90o19 1100+0a90o29 1100+3000a90v7o30"
          " S9000+0a90o30@1\n" },
    { "tcp/odd-flags", NULL,
      MIDDLE
      "p SF1000+0a50\n"
      "s SF1000+0a50\n"
      "p N1000+10\n"
      "s N1000+10\n"
      "C 1 > SF1000+0a50 1000+10\n" },
    { "tcp/epochs", NULL,
      MIDDLE
      "p 1000+100a50\n"
      "P 1\n"
      "p 1100+100a50\n"
      "s 1000+300a50 > 1000+100a50\n"       /* 1100 not in epoch 0 */
      "C 1\n"
      "S 1\n"
      "s 1000+150a50\n"
      "s 1150+50a50 > 1100+100a50\n" },
    { "tcp/commit-moves-mark", NULL,
      MIDDLE
      "p 1000+100a60\n"
      "p 1200+100a60\n"                     /* a gap that nobody fills */
      "P 1\n"
      "p 1300+100a60\n"
      "S 1\n"
      "s 1000+400a60\n"
      "C 1 > 1000+100a60 1200+100a60 1300+100a60\n"
      "p 1100+100a60\n"
      "C 2 > 1100+100a60\n" },

    /* Beginning and end of connections */
    { "tcp/syn", NULL,
      BEGIN
      "p S100+0a7\n"
      "s S555+0a7 > S100+0a7\n"
      "p S100+0a7 > S100+0a7\n"             /* repeated */
      "s S555+0a7\n"
      "p 101+10a20\n"
      "s 101+10a20 > 101+10a20\n"
      "p S100+0a7 > S100+0a7\n" },
    { "tcp/syn-connect", NULL,
      BEGIN
      "s S555+0\n"
      "p S100+0 > S100+0\n"
      "p 101+0a7\n"
      "s 101+0a7 > 101+0a7\n" },
    { "tcp/syn-different", NULL,
      BEGIN
      "p S100+0a7\n"
      "s S555+0a8 > !M\n"
      "C 1 > S100+0a7\n" },
    { "tcp/syn-window", NULL,
      BEGIN
      "s S555+0a7w101\n"
      "p S100+0a7 > !M\n" },
    { "tcp/syn-again", NULL,
      /* A new connection with the old ports */
      BEGIN
      "p S100+0a7\n"
      "s S555+0a7 > S100+0a7\n"
      "p R101+0\n"
      "p S9000+0a700\n"
      "s S555+0a7\n"                        /* the old one's */
      "s R101+0 > R101+0\n"
      "s S4444+0a700 > S9000+0a700\n"
      "p 9001+10a700\n"
      "s 9001+10a700 > 9001+10a700\n" },
    { "tcp/syn-forgets-acks", NULL,
      /* What was acknowledged to an earlier connection is no leave */
      MIDDLE
      "p 1000+0a5000\n"
      "s 1000+0a5000 > 1000+0a5000\n"
      "p S9000+0a700\n"
      "s S4444+0a700 > S9000+0a700\n"
      "p 9001+0a800\n"
      "s 9001+0a750 > 9001+0a750\n" },
    { "tcp/syn-waits", NULL,
      /* What follows a SYN is of the new connection */
      MIDDLE
      "p S9000+0a700\n"
      "p 9001+0a700\n"
      "p 9001+10a700\n"
      "s S4444+0a700 > S9000+0a700 9001+0a700\n"
      "s 9001+10a700 > 9001+10a700\n" },
    { "tcp/syn-secondary-first", NULL,
      /* Its numbers are not mapped before the primary's SYN is out */
      MIDDLE
      "p 1000+10a50\n"
      "s S4444+0a700\n"
      "s 1000+10a50x3\n" },
    { "tcp/syn-loaded", NULL,
      /* After a load the secondary has the number of the primary */
      BEGIN
      "p S100+0a7\n"
      "P 1\n"
      "C 1 > S100+0a7\n"
      "S 1\n"
      "s S100+0a7\n"
      "p 101+10a20\n"
      "s 101+10a20 > 101+10a20\n" },
    { "tcp/fin", NULL,
      MIDDLE
      "p F1000+10a50\n"
      "s 1000+10a50\n"
      "s F1010+0a50 > F1000+10a50\n"
      "p F1010+0a50 > F1010+0a50\n"         /* repeated */
      "s F1000+10a51\n"
      "p 1011+0a51 > 1011+0a51\n" },
    { "tcp/fin-alone", NULL,
      MIDDLE
      "s F1000+0a50\n"
      "p F1000+0a50 > F1000+0a50\n" },
    { "tcp/rst", NULL,
      MIDDLE
      "p R1000+0a60\n"
      "s R1000+0a60 > R1000+0a60\n"
      "p R1000+0\n"
      "p R1000+0\n"
      "s R1000+0 > R1000+0\n"
      "s R1000+0 > R1000+0\n"
      "s R1000+0\n"
      "S 1\n"
      "P 1\n"
      "p R1000+0\n" },
    { "tcp/rst-elsewhere", NULL,
      /* It answers something that did not suit: not the primary's end */
      MIDDLE
      "s R1000+0\n"
      "p R1100+0a60\n"
      "s R1100+0a60 > R1100+0a60\n"
      "p R1000+0 > R1000+0\n" },

    /* Acknowledgements */
    { "ack/follows", NULL,
      MIDDLE
      "p 1000+0a60\n"
      "p 1000+0a70\n"
      "s 1000+0a55 > 1000+0a55\n"
      "s 1000+0a65 > 1000+0a65\n"
      "s 1000+0a80 > 1000+0a70\n"
      "p 1000+0a80 > 1000+0a80\n" },
    { "ack/window", NULL,
      /* What acknowledges nothing new leaves at once, before data */
      MIDDLE
      "p 1000+100a60\n"
      "p 1100+0a50w200 > 1000+0a50\n"
      "p 999+0a50 > 999+0a50\n"             /* keep-alive */
      "p 1100+0a70w300\n"
      "s 1000+0a65w300 > 1000+0a65w300\n"
      "s 1000+100a65w300 > 1000+100a60\n"
      "s 1100+0a70w400 > 1100+0a70w300\n" },
    { "ack/narrow", NULL,
      /* No more window than the secondary has */
      MIDDLE
      "s 1000+0a50w80\n"
      "p 1000+0a50w200 > 1000+0a50w80\n"
      "s 1000+0a50w110\n"                   /* not worth a word */
      "p 1000+0a50w210 > 1000+0a50w110\n"
      "s 1000+0a50w180 > 1000+0a50w180\n"
      "s 1000+0a50w400\n"                   /* the same */
      "p 1000+0a50w30 > 1000+0a50w30\n"
      "s 1000+0a50w0\n"
      "p 1000+0a50w300 > 1000+0a50w0\n"
      "s 1000+0a50w20 > 1000+0a50w20\n"
      "s 1000+0a50w500 > 1000+0a50w300\n"
      "s 1000+0a50w600\n" },
    /* The secondary's window is shut, the primary's is not: the client waits */
#define SHUT MIDDLE "s 1000+0a60w0\np 1000+0a60w500 > 1000+0a60w0\n"
    { "ack/shut-commit", NULL,
      SHUT
      "T 50\n"
      "p 1000+0a60w510 > 1000+0a60w0\n"
      "T 49\n"
      "T 1 > !T\n"
      "P 1\n"
      "T 1000\n"
      "C 1 > 1000+0a60w510\n"
      "S 1\n"
      "T 1000\n" },
    { "ack/shut-record", NULL,
      SHUT
      "P 1\n"
      "S 1 > 1000+0a60w500\n"
      "C 1\n" },
    { "ack/shut-lost", NULL,
      SHUT
      "L > 1000+0a60w500\n" },
    { "ack/shut-open", NULL,
      SHUT
      "O > 1000+0a60w500\n" },
    { "ack/shut-opens", NULL,
      SHUT
      "T 100 > !T\n"
      "s 1000+0a60w300 > 1000+0a60w300 -T\n"
      "T 1000\n" },
    { "ack/shut-both", NULL,
      SHUT
      "p 1000+0a60w0 > 1000+0a60w0\n"
      "T 1000\n" },
    { "ack/shut-middle", NULL,
      /* Nothing but acknowledgements was seen of the connection */
      BEGIN
      "s 1000+0a60w0\n"
      "p 1000+0a60w500 > 1000+0a60w0\n"
      "T 10000 > !T\n"                     /* it is not forgotten */
      "P 1\n"
      "C 1 > 1000+0a60w500\n" },
    { "ack/narrow-epoch", NULL,
      /* What it offered in another epoch is void */
      MIDDLE
      "s 1000+0a50w80\n"
      "P 2\nC 2\nS 2\n"
      "p 1000+0a50w200 > 1000+0a50w200\n" },
    { "ack/clamped", NULL,
      MIDDLE
      "p 1000+100a90\n"
      "s 1000+100a60 > 1000+100a60\n"
      "s 1100+0a70 > 1100+0a70\n"
      "s 1100+0a95 > 1100+0a90\n" },
    { "ack/clamped-repetition", NULL,
      MIDDLE
      "p 999+1a90 > 999+1a50\n"
      "s 1000+0a90 > 1000+0a90\n" },
    { "ack/clamped-front", NULL,
      MIDDLE
      "p 1000+3000a90\n"
      "s 1000+1400a60 > 1000+1400a60\n"
      "s 2400+1600a90 > 2400+1600a90\n" },
    { "ack/overtakes-clock", NULL,
      /* A client drops what is older than what it has seen (PAWS) */
      BEGIN "p 999+1a50v5\ns 999+1a50v5 > 999+1a50v5\n"
      "p 1000+100a60v10\n"
      "p 1100+0a50v20 > 1000+0a50v10\n"    /* at once */
      "p 999+0a50v30 > 999+0a50v10\n"      /* keep-alive */
      "p 999+1a50v40 > 999+1a50v10\n"      /* repeated */
      "p 1100+0a70v50\n"
      "s 1000+0a65v9 > 1000+0a65v10\n"     /* a part of what is owed */
      "s 1000+0a70v9 > 1000+0a70v10\n"
      "s 1000+100a70v9 > 1000+100a60v10\n"
      "p 1100+0a70v60 > 1100+0a70v60\n" },
    { "ack/overtakes-clock-gap", NULL,
      /* What fills a gap overtakes what is behind it */
      BEGIN "p 999+1a50v5\ns 999+1a50v5 > 999+1a50v5\n"
      "p 1100+100a50v10\n"
      "s 1000+200a50v9\n"
      "p 1000+100a50v20 > 1000+100a50v10 1100+100a50v10\n" },
    { "ack/overtakes-clock-window", NULL,
      BEGIN "p 999+1a50v5\ns 999+1a50v5 > 999+1a50v5\n"
      "p 1000+100a50v20\n"
      "s 1000+0a50v9w80\n"
      "p 1100+0a50v30w600 > 1000+0a50w80v20\n"
      "s 1000+0a50v9w600 > 1000+0a50w600v20\n" },
    { "ack/overtakes-clock-syn", NULL,
      /* The next connection of the same ports has a clock of its own */
      BEGIN "p 999+1a50v500\ns 999+1a50v500 > 999+1a50v500\n"
      "p 1000+0a60v510\n"
      "p S9000+0a700v7\n"
      "s 1000+0a60v510 > 1000+0a60v510\n" },
    { "ack/unknown", NULL,
      /* First seen in its middle: nothing is allowed */
      BEGIN
      "p 1000+0a50\n"
      "p 1000+0a40\n"
      "s 1000+0a30 > 1000+0a30\n"
      "s 1000+0a50 > 1000+0a50\n" },
    { "ack/base", NULL,
      /* What was acknowledged before the cut the survivor has */
      BEGIN
      "p 1000+0a50\n"
      "P 1\n"
      "p 1000+10a60\n"
      "p 1010+0a50\n"
      "p 1010+0a45\n"
      "C 1 > 1000+0a50\n"
      "p 1010+0a50 > 1000+0a50\n"
      "S 1\n"
      "p 1010+0a55\n"
      "s 1000+10a52 > 1000+10a52\n"
      "s 1010+0a58 > 1010+0a58\n"
      "s 1010+0a60 > 1010+0a60\n" },
    { "ack/base-loaded", NULL,
      /* That it runs in the epoch may be known before the commit */
      MIDDLE
      "p 1000+0a60\n"
      "P 1\n"
      "p 1000+0a60w200\n"
      "S 1 > 1000+0a60w200\n" },
    { "ack/base-syn", NULL,
      /* What an earlier connection acknowledged does not count */
      BEGIN
      "p 1000+0a5000\n"
      "P 1\n"
      "p 1000+0a5000\n"
      "p S9000+0a700\n"
      "C 1 > 1000+0a5000\n"
      "S 1\n"
      "s S4444+0a700 > S9000+0a700\n"
      "p 9001+0a800\n" },
    { "ack/other-epoch", NULL,
      MIDDLE
      "P 1\n"
      "p 1000+0a60\n"
      "s 1000+0a60\n"                       /* in epoch 0: it says nothing */
      "C 1\n"
      "S 1\n"
      "s 1000+0a60 > 1000+0a60\n" },
    { "ack/commit", NULL,
      MIDDLE
      "p 1000+0a60\n"
      "p 1000+10a65\n"
      "P 1\n"
      "C 1 > 1000+10a65\n"
      "p 1010+0a70\n"
      "P 2\n"
      "C 2 > 1010+0a70\n" },
    { "ack/open", NULL,
      MIDDLE
      "p 1000+0a60\n"
      "p 1000+5a60\n"
      "O > 1000+5a60\n" },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bench_add_scripts(scripts, ARRAY_SIZE(scripts));
    return g_test_run();
}
