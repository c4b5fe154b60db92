"""Writes the seeds, good_* and bad_*: python tests/fuzz/make_seeds.py. See README.md for the layout of an input."""
import base64, json, os, struct

HERE = os.path.dirname(os.path.abspath(__file__))
root = HERE + '/seeds'
RS=b'\x1e'
def put(target,name,data):
    os.makedirs(f'{root}/{target}',exist_ok=True)
    if isinstance(data,str): data=data.encode()
    open(f'{root}/{target}/{name}','wb').write(data)
def st(header,data=b''):
    h=json.dumps(header).encode() if not isinstance(header,bytes) else header
    return struct.pack('<Q',len(h))+h+data
# safetensors
ok={'w':{'dtype':'F32','shape':[2,2],'data_offsets':[0,16]},'b':{'dtype':'BF16','shape':[3],'data_offsets':[16,22]},'e':{'dtype':'I64','shape':[0,4],'data_offsets':[22,22]},'__metadata__':{'format':'pt'}}
put('safetensors','good_whole',st(ok,bytes(range(22))))
put('safetensors','good_empty',st({}))
h64={'w':{'dtype':'F32','shape':[2,6],'data_offsets':[0,48]},'b':{'dtype':'U8','shape':[16],'data_offsets':[48,64]}}
put('safetensors','good_header',b'H'+json.dumps(h64).encode())
one=lambda n:json.dumps({n:{'dtype':'F64','shape':[8],'data_offsets':[0,64]}}).encode()
put('safetensors','good_index',b'I'+json.dumps({'metadata':{'total_size':128},'weight_map':{'x':'a','y':'b'}}).encode()+RS+one('x')+RS+one('y'))
put('safetensors','bad_index_path',b'I'+json.dumps({'weight_map':{'x':'../a','y':'b'}}).encode()+RS+one('x')+RS+one('y'))
put('safetensors','bad_index_lacks',b'I'+json.dumps({'weight_map':{'x':'a'}}).encode()+RS+one('z')+RS)
put('safetensors','bad_overflow',b'H'+json.dumps({'w':{'dtype':'F32','shape':[2**32,2**32],'data_offsets':[0,64]}}).encode())
put('safetensors','bad_offsets',b'H'+json.dumps({'w':{'dtype':'F32','shape':[16],'data_offsets':[2**63,2**63+64]}}).encode())
put('safetensors','bad_length',struct.pack('<Q',2**63)+b'{}')
put('safetensors','bad_twice',b'H{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]},"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}')
put('safetensors','bad_deep',b'H{"a":'+b'['*3000+b']'*3000+b'}')
put('safetensors','bad_name_of_lines',b'H'+json.dumps({'a\nb\x1b[2J':{'dtype':'F99','shape':[64],'data_offsets':[0,64]}}).encode())
# adapter
cfg={'r':4,'lora_alpha':8,'target_modules':['attn.to_q','to_k'],'use_rslora':False,'rank_pattern':{},'alpha_pattern':{},'peft_type':'LORA','bias':'none','init_lora_weights':'gaussian','inference_mode':True,'base_model_name_or_path':None}
def ad(config,meta,lines): return (json.dumps(config) if config else '').encode()+RS+(json.dumps(meta) if meta else '').encode()+RS+'\n'.join(lines).encode()
P='base_model.model.transformer_blocks.0.attn.'
put('adapter','good_peft',ad(cfg,None,[P+'to_q.lora_A.weight 4 6',P+'to_q.lora_B.weight 5 4',P+'to_k.lora_A.weight 4 6',P+'to_k.lora_B.weight 5 4']))
pat=dict(cfg,target_modules='.*attn\\.to_(q|k)',rank_pattern={'to_q':2},alpha_pattern={'0\\.attn\\.to_q':3.5},use_rslora=True,init_lora_weights=True)
put('adapter','good_pattern',ad(pat,None,[P+'to_q.lora_A.weight 2 6',P+'to_q.lora_B.weight 5 2',P+'to_k.lora_A.weight 4 6',P+'to_k.lora_B.weight 5 4 h']))
D='transformer.transformer_blocks.0.attn.'
put('adapter','good_diffusers',ad(None,None,[D+'to_q.lora_A.weight 4 6',D+'to_q.lora_B.weight 6 4',D+'to_q.alpha 2']))
put('adapter','good_metadata',ad(None,{'transformer.'+k:v for k,v in cfg.items()},[D+'to_q.lora_A.weight 4 6',D+'to_q.lora_B.weight 6 4']))
put('adapter','good_kohya',ad(None,None,['lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight 4 6','lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight 18 4','lora_unet_double_blocks_0_img_attn_qkv.alpha 4']))
put('adapter','good_original',ad(None,None,['diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight 4 6','diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_B.weight 18 4']))
put('adapter','good_swapped',ad(None,None,['lora_unet_final_layer_adaLN_modulation_1.lora_down.weight 2 6','lora_unet_final_layer_adaLN_modulation_1.lora_up.weight 12 2']))
put('adapter','bad_rank_0',ad(None,None,[D+'to_q.lora_A.weight 0 6',D+'to_q.lora_B.weight 6 0',D+'to_q.alpha 2']))
put('adapter','bad_dora',ad(None,None,[D+'to_q.lora_A.weight 4 6',D+'to_q.lora_B.weight 6 4',D+'to_q.lora_magnitude_vector 6 1']))
put('adapter','bad_loha',ad(None,None,['lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a 4 6']))
put('adapter','bad_nan',ad(cfg,None,[P+'to_q.lora_A.weight 4 6 n',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_integers',ad(cfg,None,[P+'to_q.lora_A.weight 4 6 i',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_twice',ad(None,None,[D+'to_q.lora_A.weight 4 6',D+'to_q.lora.down.weight 4 6',D+'to_q.lora_B.weight 6 4']))
put('adapter','bad_use_dora',ad(dict(cfg,use_dora=True,megatron_config={'a':[1]}),None,[P+'to_q.lora_A.weight 4 6',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_regex',ad(dict(cfg,target_modules='((a+)+)+$|('),None,[P+'to_q.lora_A.weight 4 6',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_backtracking',ad(dict(cfg,target_modules='(([a-z._0-9]+)+)+!'),None,[P+'to_q.lora_A.weight 4 6',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_rank_huge',ad(dict(cfg,r=2**64-1),None,[P+'to_q.lora_A.weight 4 6',P+'to_q.lora_B.weight 5 4']))
put('adapter','bad_deep',b'{"r":'+b'[{"a":'*2000+RS+RS+(P+'to_q.lora_A.weight 4 6').encode())
# clip
def bytes_symbols():
    bs=list(range(33,127))+list(range(161,173))+list(range(174,256)); cs=bs[:]; n=0
    for b in range(256):
        if b not in bs: bs.append(b); cs.append(256+n); n+=1
    return [chr(c) for c in cs]
tok=['a','b','c','a</w>','b</w>','c</w>','!','!</w>','1</w>','ab','ab</w>','abc</w>','<|startoftext|>','<|endoftext|>']
vocab={t:i for i,t in enumerate(tok)}
merges='#version: 0.2\na b\na b</w>\nab c</w>\n'
tc={'pad_token':'!','model_max_length':9,'added_tokens_decoder':{'13':{'content':'<|endoftext|>','special':True,'normalized':False,'lstrip':False,'rstrip':False,'single_word':False},'14':{'content':'<X>','lstrip':True,'rstrip':True,'single_word':False,'normalized':True}}}
def clip(v,m,c,a,t): return RS.join([(json.dumps(v,ensure_ascii=False) if not isinstance(v,str) else v).encode(),m.encode(),(json.dumps(c) if c else '').encode(),(json.dumps(a) if a else '').encode(),t if isinstance(t,bytes) else t.encode()])
put('clip_tokenizer','good_config',clip(vocab,merges,tc,None,'Abc ab! <x> it\'s 1 c'))
put('clip_tokenizer','good_plain',clip(vocab,merges,None,None,'abc \u00e9\u4e2d <|ENDOFTEXT|> aaaaaaaaaaaaaaaaaaaa'))
put('clip_tokenizer','good_added',clip(vocab,merges,None,{'<tok>':14,'<tik>':20},'a<tok>b <tik> <toktok>'))
put('clip_tokenizer','bad_text',clip(vocab,merges,None,None,b'abc\xff\xfe'))
put('clip_tokenizer','bad_id_negative',clip(vocab,merges,None,{'<tok>':2**63+14},'a<tok>b'))
put('clip_tokenizer','bad_id_huge',clip(vocab,merges,None,{'<tok>':2**31-1},'a<tok>b'))
put('clip_tokenizer','bad_list_of_numbers',clip(vocab,merges,{'added_tokens_decoder':[1,2]},None,'a'))
put('clip_tokenizer','bad_shared_id',clip({'a':0,'b':0},'',None,None,'a'))
put('clip_tokenizer','bad_merge',clip(vocab,merges+'a x\n',None,None,'a'))
put('clip_tokenizer','bad_token_of_lines',clip({'a\nb':9},'',None,None,'a'))
put('clip_tokenizer','bad_deep',clip('{"a":'+'['*5000,'',None,None,'a'))
put('clip_tokenizer','bad_no_specials',clip({'a':0},'',None,None,'a'))
# t5 json
def vi(n):
    o=b''
    while True:
        b=n&127; n>>=7
        o+=bytes([b|(128 if n else 0)])
        if not n: return o
# a trie (darts-clone): 'A' -> 'a', and U+2126 is left out
def unit(label,offset,leaf): return label | (256 if leaf else 0) | (offset<<10)
N=1024
units=[0]*N
base=256
units[0]=base<<10
a=base^ord('A')           # node of 'A'
off=512                   # its offset: value at a^off
units[a]=unit(ord('A'),off,True)
units[a^off]=(1<<31)|0    # value 0
sp=base^ord('\t'); units[sp]=unit(9,off,True); units[sp^off]=(1<<31)|2
trie=b"".join(struct.pack("<I",u) for u in units)
charsmap=struct.pack('<I',len(trie))+trie+b'a\0 \0'
pieces=[('<pad>',0,3),('</s>',0,3),('<unk>',0,2),('\u2581',-2.0,1),('\u2581a',-1.5,1),('a',-3,1),('b',-3,1),('ab',-2.5,1),('abab',-4,1),('\u2581the',-2,1)]
def t5(norm,pre,vocab=None,unk=2,added=True,extra=None):
    j={'version':'1.0','truncation':None,'padding':None,'added_tokens':[{'id':i,'content':c,'single_word':False,'lstrip':False,'rstrip':False,'normalized':False,'special':True} for i,c in enumerate(['<pad>','</s>','<unk>'])]+[{'id':10,'content':'<extra_id_0>','lstrip':True,'rstrip':True,'normalized':False,'special':True,'single_word':False}] if added else [],
       'normalizer':norm,'pre_tokenizer':pre,'model':{'type':'Unigram','unk_id':unk,'vocab':[[p,s] for p,s,_ in pieces] if vocab is None else vocab,'byte_fallback':False}}
    j.update(extra or {})
    return json.dumps(j).encode()
meta={'type':'Metaspace','replacement':'\u2581','prepend_scheme':'always','split':True}
pc={'type':'Precompiled','precompiled_charsmap':base64.b64encode(charsmap).decode()}
seq={'type':'Sequence','normalizers':[pc,{'type':'Strip','strip_left':False,'strip_right':True},{'type':'Replace','pattern':{'Regex':' {2,}'},'content':'\u2581'}]}
put('t5_json','good_whole',t5(seq,{'type':'Sequence','pretokenizers':[{'type':'WhitespaceSplit'},meta]})+RS+RS+'the A  ab b<extra_id_0> abab\t'.encode())
put('t5_json','good_plain',t5(None,meta)+RS+json.dumps({'model_max_length':7,'added_tokens_decoder':{'12':{'content':'zz','normalized':True}}}).encode()+RS+'the zz a\u0301\u4e2d'.encode())
put('t5_json','good_replace',t5({'type':'Replace','pattern':{'String':'a'},'content':'b'},{'type':'Metaspace','replacement':'_','add_prefix_space':False})+RS+RS+b'a a')
grow={'type':'Replace','pattern':{'String':'a'},'content':'a'*200}
put('t5_json','bad_growth',t5({'type':'Sequence','normalizers':[grow]*6},meta)+RS+RS+b'aaaa')
put('t5_json','bad_marks',t5(None,{'type':'Sequence','pretokenizers':[{'type':'Metaspace','replacement':' '*200,'split':False}]*5})+RS+RS+b'a a')
deep=None
n={'type':'Strip'}
s=json.dumps(n)
for _ in range(400): s='{"type":"Sequence","normalizers":['+s+']}'
put('t5_json','bad_deep',b'{"model":{},"normalizer":'+s.encode()+b'}'+RS+RS+b'a')
put('t5_json','bad_backtracking',t5({'type':'Replace','pattern':{'Regex':'(a+)+$'},'content':'b'},meta)+RS+RS+b'a'*60+b'!')
put('t5_json','bad_backslash_c',t5({'type':'Replace','pattern':{'Regex':'\\C'},'content':'b'},meta)+RS+RS+'\u00e9\u4e2d'.encode())
put('t5_json','bad_type',t5({'type':3},meta)+RS+RS+b'a')
put('t5_json','bad_unk',t5(None,meta,unk=2**64-1)+RS+RS+b'a')
put('t5_json','bad_vocab',t5(None,meta,vocab=[['a',1,2]])+RS+RS+b'a')
put('t5_json','bad_token_number',t5(None,meta,extra={'added_tokens':[5]})+RS+RS+b'a')
put('t5_json','bad_charsmap',t5({'type':'Precompiled','precompiled_charsmap':base64.b64encode(struct.pack('<I',8)+struct.pack('<II',0xfffffc00,0)).decode()},meta)+RS+RS+b'a')
# spiece
def field(n,w,v): return vi(n<<3|w)+v
def msg(n,b): return field(n,2,vi(len(b))+b)
def model(ps=pieces,trainer=field(3,0,vi(1)),norm=None):
    o=b''
    for p,s,t in ps: o+=msg(1,msg(1,p.encode())+field(2,5,struct.pack('<f',s))+field(3,0,vi(t)))
    o+=msg(2,trainer)
    o+=msg(3,(msg(1,b'nmt_nfkc')+msg(2,charsmap) if norm is None else norm)+field(3,0,vi(1))+field(4,0,vi(1))+field(5,0,vi(1)))
    return o
put('spiece','good_charsmap',b'the A  ab\tbab<extra_id_0>'+RS+model())
put('spiece','good_plain','the \u4e2d a'.encode()+RS+model(norm=b''))
put('spiece','bad_bpe',b'a'+RS+model(trainer=field(3,0,vi(2))))
put('spiece','bad_byte_fallback',b'a'+RS+model(trainer=field(35,0,vi(1))))
put('spiece','bad_no_unknown',b'a'+RS+model(ps=pieces[:2]))
put('spiece','bad_cut',b'a'+RS+model()[:57])
put('spiece','bad_number',b'a'+RS+b'\x0a'+b'\xff'*12)
put('spiece','bad_length',b'a'+RS+b'\x0a'+vi(2**63)+b'ab')
long=struct.pack('<I',len(trie))+trie+b'\xe2\x96\x81'*3000+b'\0'
put('spiece','bad_growth',b'A'*4000+RS+model(norm=msg(2,long)))
put('spiece','bad_type',b'a'+RS+model(ps=pieces+[('q',0,6)]))
put('spiece','bad_trie',b'A'+RS+model(norm=msg(2,struct.pack('<I',8)+struct.pack('<II',0xfffffc00,0))))
# config
G=HERE+'/../golden/'
def cfgs(letter,name,path=None,obj=None,**over):
    j=obj if obj is not None else json.load(open(G+path)); j=dict(j); j.update(over)
    put('config',name,letter+json.dumps(j))
tiny_sd3=json.load(open(G+'sd3_a/config.json'))
small=dict(sample_size=4,patch_size=2,in_channels=2,out_channels=2,num_layers=1,attention_head_dim=4,num_attention_heads=1,joint_attention_dim=4,caption_projection_dim=4,pooled_projection_dim=4,pos_embed_max_size=4,dual_attention_layers=[0],qk_norm='rms_norm')
cfgs('s','good_sd3',path='sd3_a/config.json')
cfgs('s','good_sd3_small',obj=small)
cfgs('f','good_flux',path='flux_a/config.json')
cfgs('a','good_vae',path='vae_a/config.json')
cfgs('a','good_vae_small',obj=dict(block_out_channels=[4,4],latent_channels=2,norm_num_groups=2,layers_per_block=1,sample_size=8,use_quant_conv=False,down_block_types=['DownEncoderBlock2D']*2))
cfgs('c','good_clip',path='clip_model_a/config.json')
cfgs('w','good_clip_text',path='clip_text_a/config.json')
cfgs('t','good_t5',path='t5_a/config.json')
cfgs('d','good_schedule',obj=dict(shift=3.0,use_dynamic_shifting=True,base_shift=0.5,max_shift=1.15,base_image_seq_len=256,max_image_seq_len=4096,num_train_timesteps=1000))
M=2**24
cfgs('s','bad_layers',obj=small,num_layers=M)
cfgs('s','bad_patch',obj=small,patch_size=M,in_channels=M)
cfgs('s','bad_zero',obj=small,in_channels=0)
cfgs('s','bad_heads_zero',obj=small,num_attention_heads=0)
cfgs('f','bad_layers',path='flux_a/config.json',num_layers=M,num_single_layers=M)
cfgs('f','bad_axes',path='flux_a/config.json',axes_dims_rope=[2**62,2**62,2**62,2**62])
cfgs('a','bad_groups',path='vae_a/config.json',norm_num_groups=0)
cfgs('a','bad_channels',path='vae_a/config.json',block_out_channels=[0])
cfgs('a','bad_tile',path='vae_a/config.json',sample_size=0)
cfgs('w','bad_heads',path='clip_text_a/config.json',num_attention_heads=0)
cfgs('w','bad_layers',path='clip_text_a/config.json',num_hidden_layers=M)
cfgs('t','bad_layers',path='t5_a/config.json',num_layers=M)
cfgs('t','bad_buckets',path='t5_a/config.json',relative_attention_num_buckets=3)
cfgs('t','bad_size',path='t5_a/config.json',d_model=2**63)
cfgs('d','bad_tokens',obj=dict(base_image_seq_len=M,max_image_seq_len=0,use_dynamic_shifting=True))
put('config','bad_deep','t{"d_model":'+'['*3000+']'*3000+'}')
put('config','bad_infinite','t{"layer_norm_epsilon":1e999}')
put('config','bad_none','t')
